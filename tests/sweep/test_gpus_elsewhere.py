"""Slurm, Ray and GPUs that this machine may not have: what is planned and asked for, what a task does with its own."""

import json
import sys

import pytest
from commands import mupcheck
from fake_ray import FakeRay
from fake_slurm import FakeSlurm
from tiny_sweeps import assert_same, numbers, tiny

from mupcheck.cli import exits
from mupcheck.sweep.described import write_plan
from mupcheck.sweep.engines import local
from mupcheck.sweep.engines.ray import Ray
from mupcheck.sweep.engines.sbatch import Slurm
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.portion import Portion, write_portion
from mupcheck.sweep.runner import run_sweep
from mupcheck.sweep.work import work

SMALL = "--data synthetic --widths 16,32 --layers 1 --heads 2 --seeds 1 --lrs 2^-8,2^-6 -p gdn-mup --steps 3 --warmup 0"
LR = ["lr-sweep", *SMALL.split(), "--batch-size", "2", "--seq-len", "8", "--eval-tokens", "16", "--engine", "slurm"]


@pytest.mark.parametrize(("options", "gpus"), [(["--device", "cuda"], "1"), (["--slurm-gpus", "2"], "2")])
def test_the_script_asks_for_gpus_and_a_task_without_them_says_so(options, gpus, tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "cluster")
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.chdir(tmp_path)
    answer = mupcheck(*LR, *options, "--slurm-poll", "0.1", "--slurm-groups", "2")
    (job,) = fake.submitted()
    assert job["--gres"] == f"gpu:{gpus}" and "--cpus-per-task" not in job
    folder = tmp_path / "results" / "lr"
    (script,) = (folder / "work").glob("*/array.sh")
    assert "--device cuda " in script.read_text()
    # planned as for a GPU of which nothing is known
    resolved = json.loads((folder / "sweep.json").read_text())
    assert resolved["device"] == "cuda:0"
    # the machine of this task has none
    assert answer.code == exits.STORAGE
    assert "task 1_0 ended as FAILED before they were there: error: device 'cuda' is not there" in answer.err


def test_what_is_planned_for_gpus_elsewhere_asks_none_here(tmp_path):
    plan = plan_sweep(tiny(), out=tmp_path, device=("cuda:0",), here=False)
    assert (plan.gpus, plan.available_bytes, plan.fits, plan.computes) == (("cuda:0",), None, True, "chunk")


def test_a_task_works_on_all_the_gpus_that_it_was_given(tmp_path, monkeypatch):
    plan = plan_sweep(tiny(parametrizations=("gdn-mup",)), out=tmp_path, device=("cuda:0",), here=False)
    write_plan(plan)
    portion = Portion(plan.folder, "0" * 12, plan.sweep.name, plan.groups, ((0, 1),))
    write_portion(portion)
    found, given = ["cuda:0"], {}
    monkeypatch.setattr("mupcheck.sweep.work.find_devices", lambda device: tuple(found))

    def execute(waiting, work, **how):
        given.update(how)
        while waiting:
            yield local.Message(waiting.popleft())

    monkeypatch.setattr("mupcheck.sweep.work.local.execute", execute)
    assert work(portion, 0, device="cuda") == []
    assert (given["devices"], given["jobs"]) == (("cuda:0",), 1)
    found += ["cuda:1", "cuda:2"]
    assert work(portion, 0, device="cuda") == []
    assert (given["devices"], given["jobs"]) == (("cuda:0", "cuda:1"), 2)  # one a group


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_a_sweep_on_a_gpu_has_the_same_rows_as_here(engine, tmp_path, monkeypatch):
    sweep = tiny(parametrizations=("gdn-mup",))
    here = run_sweep(sweep, out=tmp_path / "local", device="cuda:0", exact=True)
    monkeypatch.chdir(tmp_path)
    if engine == "slurm":
        monkeypatch.setenv("PATH", FakeSlurm(tmp_path / "cluster").path)
        how: Slurm | Ray = Slurm(gpus=1, groups=4, poll=0.1)
    else:
        fake = FakeRay(tmp_path / "module")
        fake.become(nodes=[{"CPU": 2, "GPU": 1}])
        monkeypatch.setenv("PYTHONPATH", f"{fake.path}:{':'.join(path for path in sys.path if path)}")
        monkeypatch.syspath_prepend(fake.path)
        monkeypatch.setenv("RAY_ADDRESS", "local")
        how = Ray(gpus=1)
    there = run_sweep(sweep, out=tmp_path / "elsewhere", engine=how, exact=True)
    assert set(there.runs["device"]) == set(here.runs["device"])
    assert_same(numbers(there), numbers(here))
