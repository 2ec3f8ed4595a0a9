"""The ray engine against a module that stands for Ray: what fails is halved, tried elsewhere, or said in one line."""

import importlib
import json
import re
import sys
from collections import deque
from dataclasses import replace

import pytest
from commands import mupcheck
from fake_ray import FakeRay
from tiny_sweeps import assert_same, numbers, tiny, trained

import mupcheck as mupcheck_
from mupcheck.cli import exits
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import ray
from mupcheck.sweep.engines.ray import Ray, connected
from mupcheck.sweep.limits import Limits
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.portion import read_portion
from mupcheck.sweep.sharing import asks_of

SMALL = "--data synthetic --widths 16,32 --layers 1 --heads 2 --seeds 1 --lrs 2^-8,2^-6 -p gdn-mup --steps 3 --warmup 0"
LR = ["lr-sweep", *SMALL.split(), "--batch-size", "2", "--seq-len", "8", "--eval-tokens", "16"]
ON_RAY = [*LR, "--engine", "ray"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fake = FakeRay(tmp_path / "module")
    monkeypatch.setenv("PYTHONPATH", f"{fake.path}:{':'.join(path for path in sys.path if path)}")
    monkeypatch.syspath_prepend(fake.path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    return fake


def planned(tmp_path, sweep=None, **how):
    return plan_sweep(sweep or tiny(parametrizations=("gdn-mup",)), out=tmp_path / "ray", here=False, **how)


def through(plan, lines=None, **settings):
    """Execute a plan on the cluster; return the errors."""
    said = [] if lines is None else lines
    with connected(Ray(**settings)) as cluster:

        def engine(plan, waiting):
            return ray.execute(plan, waiting, cluster=cluster, say=said.append)

        return [state.error for state in runner.execute(plan, engine=engine) if state.error]


# --- the same rows ----------------------------------------------------------------------------------------------------


def test_a_sweep_has_the_same_rows_as_here_to_the_last_bit(cluster, tmp_path):
    sweep = tiny(parametrizations=("gdn-mup",))
    here, _ = trained(sweep, tmp_path / "local", jobs=1)
    plan = planned(tmp_path, sweep)
    assert through(plan, cpus=2) == []
    assert_same(numbers(load_results(plan.folder)), numbers(here))
    assert json.loads((plan.folder / "sweep.json").read_text())["path"]  # the backend was compared, in a task
    assert not (plan.folder / "work").exists()
    assert cluster.said("init")["address"] == "local" and cluster.said("down")
    assert [(task["num_cpus"], task["num_gpus"]) for task in cluster.said("tasks")] == [(2, 0)] * 3


def test_the_command_answers_and_goes_on_from_what_is_there(cluster, tmp_path):
    first = mupcheck(*ON_RAY, "--max-runs", "1", "--json")
    assert first.code == exits.CANNOT_TELL and len(finished_runs(tmp_path / "results" / "lr")) == 1, first.err
    answer = mupcheck(*ON_RAY, "--json", RAY_ADDRESS="auto")
    assert answer.code == exits.CANNOT_TELL and answer.json[0]["parametrization"] == "gdn-mup", answer.err
    assert cluster.said("init")["address"] == "auto"
    assert len(finished_runs(tmp_path / "results" / "lr")) == 4


def test_run_sweep_takes_an_engine(cluster, tmp_path):
    sweep, notes, seen = tiny(parametrizations=("gdn-mup",)), [], []
    cluster.become(dies={"1": 1})
    how = {"engine": mupcheck_.Ray(jobs=1), "on_note": notes.append, "on_progress": seen.append}
    results = mupcheck_.run_sweep(sweep, out=tmp_path, **how)
    assert len(results.runs) == 4 and seen[-1].runs_finished == 4
    assert notes == ["tiny: a node died; its group goes to another"]
    assert cluster.said("down")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "ray"}, "engine=the string 'ray' is none; give 'local', mupcheck.Ray"),
        ({"engine": Ray}, "is none; give 'local'"),
        ({"engine": Ray(), "jobs": 2}, "jobs is this machine's; Ray(...) says what"),
        ({"engine": Ray(), "device": "cuda"}, "device is this machine's"),
        ({"engine": Ray(), "fresh": True}, "fresh is not for Ray"),
        ({"engine": Ray(cpus=0)}, "ray_cpus = 0 is no number of cores"),
        ({"engine": mupcheck_.Slurm(time="soon")}, "slurm"),
    ],
)
def test_run_sweep_refuses_what_is_no_engine(given, said, cluster, tmp_path):
    with pytest.raises(ValueError, match=re.escape(said)):
        mupcheck_.run_sweep(tiny(), out=tmp_path, **given)
    assert cluster.said("init") is None and not (tmp_path / "tiny").exists()


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_group_whose_node_dies_goes_to_another_whole(cluster, tmp_path):
    cluster.become(dies={"1": 2})
    plan, lines = planned(tmp_path), []
    assert through(plan, lines) == []
    assert len(finished_runs(plan.folder)) == 4 and len(cluster.said("tasks")) == 5
    assert lines == ["tiny: a node died; its group goes to another"] * 2


def test_a_group_whose_process_is_killed_is_halved_and_fails_alone(cluster, tmp_path):
    cluster.become(kills={"1": 2, "2": 1})  # the second once alone
    plan = planned(tmp_path)
    (error,) = through(plan)  # which is tried again
    assert "its process was ended (out of memory?): WorkerCrashedError of 1" in error
    assert len(finished_runs(plan.folder)) == 4
    cluster.become(kills={"0": 9, "1": 9, "2": 9})
    plan = planned(tmp_path, tiny(parametrizations=("gdn-mup",), seeds=1, lrs=(2.0**-8,), steps=5))
    assert len(through(plan)) == 2
    failed = json.loads((plan.folder / "sweep.json").read_text())["failed"]
    assert [each["width"] for each in failed] == [32, 16] and "estimated to need" in failed[0]["reason"]


def test_a_node_that_dies_every_time_is_an_error(cluster, tmp_path):
    cluster.become(dies={"1": 99})
    plan = planned(tmp_path)
    (error,) = through(plan)
    assert "2 runs of width 32: its node died, 5 times: NodeDiedError of 1" in error
    assert len(finished_runs(plan.folder)) == 2


def test_a_bug_in_a_task_keeps_its_traceback(cluster, tmp_path):
    cluster.become(breaks={"2": 1})
    plan = planned(tmp_path)
    (error,) = through(plan)
    assert "RayTaskError of 2; its traceback is in" in error
    assert len(list((plan.folder / "failed").iterdir())) == 1 and len(finished_runs(plan.folder)) == 2


def test_a_cluster_that_is_lost_fails_what_was_left(cluster, tmp_path):
    cluster.become(vanishes=True)
    answer = mupcheck(*ON_RAY)
    assert answer.code == exits.STORAGE
    assert "Ray at local is lost: the GCS went away" in answer.err


def test_a_group_that_takes_too_long_is_ended(cluster, tmp_path):
    plan = planned(tmp_path, tiny(parametrizations=("gdn-mup",), steps=100_000), limits=Limits(group_seconds=1))
    plan = replace(plan, groups=plan.groups[:1])
    assert through(plan) == ["2 runs of width 32: it took longer than 1 s and was ended"]


def test_a_budget_ends_what_is_handed_out(cluster, tmp_path):
    plan = planned(tmp_path, tiny(parametrizations=("gdn-mup",), seeds=3), exact=True, limits=Limits(seconds=1e-3))
    assert through(plan, jobs=1) == []
    # the first, and one that may begin before the first is seen to have ended
    assert 1 <= len(finished_runs(plan.folder)) <= 2 < len(plan.runs)


def test_what_lies_in_work_is_removed_once_its_runs_are_there(cluster, tmp_path):
    plan = planned(tmp_path)
    for name, text in (("a" * 12, '{"runs": {}}'), ("b" * 12, '{"runs": {"0": {}}}'), ("c" * 12, '{"runs": {}}')):
        (plan.folder / "work" / name).mkdir(parents=True)
        (plan.folder / "work" / name / "plan.json").write_text(text)
    (plan.folder / "work" / ("c" * 12) / "job").write_text("1\n")  # Slurm's, of which nobody asked here
    assert through(plan) == []
    assert sorted(file.name[0] for file in (plan.folder / "work").iterdir()) == ["b", "c"]


# --- what cannot be asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray-cpus", "2"], "--ray-cpus belongs to engine ray; add --engine ray"),
        (["--engine", "ray", "--no-wait"], "--no-wait belongs to engine slurm"),
        (["--engine", "ray", "--slurm-time", "1h"], "--slurm-time belongs to engine slurm"),
        (["--engine", "ray", "--ray-cpus", "0"], "--ray-cpus 0 is no number of cores"),
        (["--engine", "ray", "--ray-gpus", "1.5"], "--ray-gpus 1.5 is no share of a GPU"),
        (["--engine", "ray", "--ray-gpus", "nan"], "--ray-gpus nan is no share of a GPU"),
        (["--engine", "ray", "--ray-gpus", "1", "--device", "cpu"], "does not go with device 'cpu'"),
        (["--engine", "ray", "--device", "cuda:1"], "is one of this machine; with engine ray"),
        (["--engine", "ray", "--ray-address", "head"], "--ray-address 'head' is no address; give auto, host:6379"),
        (
            ["--engine", "ray", "--ray-cpus", "3"],
            "no node of the Ray cluster at local has the 3 CPU that a group needs",
        ),
        (["--engine", "ray", "--device", "cuda"], "has the 1 CPU and 1 GPU that a group needs (2 CPU, 0 GPU)"),
    ],
)
def test_what_cannot_be_asked_of_ray_is_one_line(options, said, cluster, tmp_path):
    answer = mupcheck(*LR, *options)
    assert answer.code == exits.USAGE and said in answer.err and len(answer.err.splitlines()) == 1, answer.err
    assert cluster.said("tasks") is None and not (tmp_path / "results" / "lr" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"refuses": ["AuthenticationError", "RPC error: InvalidAuthToken"]},
            "asks for its token; set RAY_AUTH_MODE=token",
        ),
        (
            {"refuses": ["RayError", "Version mismatch: 1\nand more"]},
            "does not let us in: RayError: Version mismatch: 1",
        ),
    ],
)
def test_a_cluster_that_refuses_is_one_line(state, said, cluster, tmp_path):
    cluster.become(**state)
    answer = mupcheck(*ON_RAY)
    assert answer.code == exits.USAGE and said in answer.err and len(answer.err.splitlines()) == 1, answer.err


def test_nodes_that_do_not_see_the_folder_are_one_line(cluster, tmp_path):
    cluster.become(blind=True)
    answer = mupcheck(*ON_RAY)
    assert answer.code == exits.USAGE, answer.err
    assert f"1 of the Ray cluster's nodes (far) do not see {tmp_path}/results/lr; give --out on a disk" in answer.err
    assert not (tmp_path / "results" / "lr" / "work").exists()


def test_without_ray_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    answer = mupcheck(*ON_RAY)
    assert answer.code == exits.USAGE and len(answer.err.splitlines()) == 1
    assert "needs Ray, which is not installed here; try pip install 'mupcheck[ray]'" in answer.err
    assert mupcheck(*ON_RAY, "--dry-run").code == exits.OK  # which needs none


def test_gpus_are_asked_for_and_nothing_is_known_of_them_here(cluster, tmp_path):
    cluster.become(nodes=[{"CPU": 4, "GPU": 1}])
    plan = planned(tmp_path, device=("cuda:0",))
    errors = through(plan, gpus=0.5)  # which this machine does not have
    assert {task["num_gpus"] for task in cluster.said("tasks")} == {0.5}
    assert all("device 'cuda' is not there" in error or "torch" in error for error in errors)


def test_nodes_know_what_the_sweep_asks_for(cluster, tmp_path):
    """By which another driver of the same sweep knows that they train it, and is not refused."""
    plan = planned(tmp_path)
    handed = ray._HandedOut(plan)
    key, _ = handed.place_of(plan.groups[0], deque())
    assert read_portion(plan.folder, key).asks == asks_of(plan)
