"""Sweeps whose processes are killed, or warned, while they train: the next call goes on from checkpoints."""

import os
import signal
import subprocess
import sys
import time

import pytest
from fake_slurm import FakeSlurm
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep import runner
from mupcheck.sweep.checkpoint_file import FOLDER, headers_in
from mupcheck.sweep.checkpoints import VARIABLE
from mupcheck.sweep.engines import slurm
from mupcheck.sweep.engines.sbatch import Slurm
from mupcheck.sweep.group import run_group
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.runner import execute, run_sweep

# one run of each width and so a group of each; long enough to be met in the middle
LONG = tiny(parametrizations=("gdn-mup",), lrs=(2.0**-8,), steps=200, widths=(16, 32))
MINUTES = "0.003"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return numbers(trained(LONG, tmp_path_factory.mktemp("undisturbed"), jobs=1)[0])


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setenv(VARIABLE, MINUTES)


def wait_for_checkpoints(folder, *, steps, count=2):
    for _ in range(15_000):
        if sum(header.step >= steps for _, header in headers_in(folder)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} checkpoints in {folder}")


def first_steps(plan):
    """Return the steps of each group that were there when it went on."""
    where = {"folder": plan.folder, "corpus": plan.corpus, "device": "cpu", "sweep": plan.sweep.name}
    works = [run_group(group, provenance=runner.provenance(), **where) for group in plan.groups]
    found = [next(work) for work in works]
    for work in works:
        work.close()
    return found


def test_a_sweep_that_was_killed_goes_on_where_its_groups_were(tmp_path, undisturbed):
    script = (
        "import sys; from tiny_sweeps import tiny; from mupcheck import run_sweep\n"
        "run_sweep(tiny(parametrizations=('gdn-mup',), lrs=(2.0**-8,), steps=200), out=sys.argv[1], jobs=2)"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths})
    folder = tmp_path / "tiny"
    wait_for_checkpoints(folder, steps=20)
    driver.kill()
    driver.wait()
    time.sleep(0.2)  # workers see that it is gone
    plan = plan_sweep(LONG, out=tmp_path)
    steps = first_steps(plan)
    assert len(steps) == 2 and min(steps) >= 20
    assert_same(numbers(run_sweep(LONG, out=tmp_path, device="cpu", jobs=1)), undisturbed)
    assert not (folder / FOLDER).exists()


def killed_once(group, *, folder, **options):
    """Work that SIGKILLs its process once it has a checkpoint, but not where it goes on from one."""
    run_ids = {run.run_id for run in group}
    os.environ[VARIABLE] = MINUTES  # the fork server's is what it was when the first test started it
    for steps in run_group(group, folder=folder, **options):
        time.sleep(0.005)  # so that a checkpoint comes before the end, on any machine
        kept = any(set(header.run_ids) == run_ids for _, header in headers_in(folder))
        if steps == 1 and kept and group[0].width == 32 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield steps


def test_a_worker_that_was_killed_costs_the_steps_since_its_checkpoint(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(runner, "run_group", killed_once)
    errors = [state.error for state in execute(plan_sweep(LONG, out=tmp_path), jobs=2) if state.error]
    assert len(errors) == 1 and "SIGKILL" in errors[0]
    (left,) = headers_in(tmp_path / "tiny")
    assert 0 < left[1].step < LONG.steps
    monkeypatch.undo()
    assert_same(numbers(run_sweep(LONG, out=tmp_path, device="cpu", jobs=1)), undisturbed)


def test_a_task_longer_than_its_limit_of_time_ends_over_several_starts(tmp_path, undisturbed, monkeypatch):
    cluster = FakeSlurm(tmp_path / "cluster")
    monkeypatch.setenv("PATH", cluster.path)
    monkeypatch.chdir(tmp_path)
    plan = plan_sweep(LONG, out=tmp_path / "slurm", here=False, jobs=2)
    _, (portion,) = slurm.submit(plan, plan.groups, Slurm(groups=2, cpus=2), say=lambda _: None)
    wait_for_checkpoints(plan.folder, steps=10, count=2)
    before = {file.name: header.step for file, header in headers_in(plan.folder)}
    os.kill(cluster.queue()[0]["pid"], signal.SIGUSR1)
    log = portion.place / "task-0.log"
    for _ in range(15_000):
        time.sleep(0.02)
        if not cluster.queue():
            break
    text = log.read_text()
    assert "runs ended within the limit of time; queued again for the rest, which goes on from checkpoints" in text
    assert "Traceback" not in text
    assert before and len(finished_runs(plan.folder)) == 2
    assert_same(numbers(load_results(plan.folder)), undisturbed)
    assert not list(plan.folder.glob(f"{FOLDER}/*.ckpt"))
