"""A real Ray cluster of three nodes, started here where Ray is installed: one is killed while its group trains."""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from commands import mupcheck
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.cli import exits
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import ray
from mupcheck.sweep.engines.ray import Ray, connected
from mupcheck.sweep.plan import plan_sweep

pytest.importorskip("ray", reason="no Ray is installed")
pytestmark = pytest.mark.slow
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
SMALL = "--data synthetic --widths 16,32 --layers 1 --heads 2 --seeds 1 --lrs 2^-8,2^-6 -p gdn-mup --steps 3 --warmup 0"
LR = ["lr-sweep", *SMALL.split(), "--batch-size", "2", "--seq-len", "8", "--eval-tokens", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.chdir(tmp_path_factory.mktemp("nodes"))
        real = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        real.others = [real.add_node(**NODE) for _ in range(2)]
        yield real
        real.shutdown()


def kill_node(cluster):
    """Kill a node and all that it runs, as a machine goes."""
    node = cluster.others.pop()
    (raylet,) = node.all_processes["raylet"]
    workers = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(file.read_text().rpartition(")")[2].split()[1]) == raylet.process.pid:
                workers.append(int(file.parent.name))
    cluster.remove_node(node, allow_graceful=False)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_sweep_is_complete_and_has_the_same_rows_as_here_though_a_node_is_killed(cluster, tmp_path):
    sweep = tiny(parametrizations=("gdn-mup",), seeds=3, steps=60)
    # in the same groups: the norm of gradients may round otherwise in another one, on a CPU too
    here, _ = trained(sweep, tmp_path / "local", jobs=1, exact=True)
    plan = plan_sweep(sweep, out=tmp_path / "ray", here=False, exact=True)
    assert len(plan.groups) == 12
    notes: list[str] = []
    errors, n_there = [], []
    with connected(Ray(address=cluster.address)) as through:
        assert through.slots == 3

        def engine(plan, waiting):
            return ray.execute(plan, waiting, cluster=through, say=notes.append)

        for state in runner.execute(plan, engine=engine):
            errors += [state.error] if state.error else []
            n_there.append(state.runs_finished)
            if state.runs_finished and len(cluster.others) == 2:
                kill_node(cluster)
    assert errors == [] and n_there[-1] == 12
    assert notes == [] or set(notes) == {"tiny: a node died; its group goes to another"}
    assert_same(numbers(load_results(plan.folder)), numbers(here))
    assert not (plan.folder / "work").exists()


def test_the_command_answers(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = mupcheck(*LR, "--engine", "ray", "--ray-address", cluster.address, "--json")
    assert answer.code == exits.CANNOT_TELL, answer.err  # two widths
    assert answer.json[0]["parametrization"] == "gdn-mup"
    assert len(finished_runs(tmp_path / "results" / "lr")) == 4


def test_a_node_that_does_not_see_the_folder_is_one_line(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # another folder for who stands elsewhere
    answer = mupcheck(*LR, "--engine", "ray", "--out", "/proc/self/cwd/out", RAY_ADDRESS=cluster.address)
    assert answer.code == exits.USAGE
    assert "do not see /proc/self/cwd/out/lr; give --out on a disk that all of them share" in answer.err
    assert not (tmp_path / "out" / "lr" / "work").exists()


def test_what_does_not_answer_as_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        answer = mupcheck(*LR, "--engine", "ray", "--ray-address", address)
    assert answer.code == exits.USAGE and len(answer.err.splitlines()) == 1
    assert f"no Ray answers at {address} within 2 s" in answer.err
    assert not (tmp_path / "results" / "lr" / "sweep.json").exists()
    gone = mupcheck(*LR, "--engine", "ray", "--ray-address", address)
    assert gone.code == exits.USAGE and f"no Ray answers at {address}: Connection refused" in gone.err
