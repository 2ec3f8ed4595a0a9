"""Groups for several GPUs, kernels that are compiled meanwhile, backends and devices; no GPU is needed here."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import mupcheck
from fake_gpus import TWO, default_runs, on_gpus
from tiny_sweeps import tiny, tiny_coord

from mupcheck.cli import exits
from mupcheck.sweep import plan as plan_file
from mupcheck.sweep import runner
from mupcheck.sweep.backend import backend_of
from mupcheck.sweep.cost import cuda_seconds
from mupcheck.sweep.engines import local
from mupcheck.sweep.groups import group_runs, makespan, spread
from mupcheck.sweep.kernels import faults_of
from mupcheck.sweep.plan import find_devices, plan_sweep
from mupcheck.sweep.warm import shapes_to_come, warm_up

# --- kernels of what comes later --------------------------------------------------------------------------------------


def default_plan(out, devices, **options):
    plan = on_gpus(lr(), out, devices, available_bytes=2**36)
    groups = group_runs(default_runs(**options), "cuda:0", places=len(devices))
    return replace(plan, groups=tuple(groups))


def test_shapes_that_no_gpu_begins_with_are_compiled_beside_those_that_do(tmp_path):
    one, four = default_plan(tmp_path, ("cuda:0",)), default_plan(tmp_path, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"))
    assert [(group[0].width, len(group)) for group in shapes_to_come(one)] == [(512, 2), (256, 2)]
    assert [group[0].width for group in shapes_to_come(four)] == [256]
    assert {run.steps for group in shapes_to_come(one) for run in group} == {3}
    # not where there is no room beside the largest group, little to do, or nothing to compile
    assert shapes_to_come(replace(one, available_bytes=one.needed_bytes + 2**28)) == []
    assert shapes_to_come(replace(one, groups=one.groups[-1:])) == []
    chunk = tuple(tuple(run.model_copy(update={"backend": "chunk"}) for run in group) for group in one.groups)
    assert shapes_to_come(replace(one, groups=chunk)) == []
    assert shapes_to_come(replace(one, device="cpu")) == []


def marking(group, device):
    Path(group[0]).write_text(device)
    yield from ()
    time.sleep(600 if len(group) > 1 else 0)


def test_what_works_beside_is_ended_with_what_it_is_beside(tmp_path):
    mark, slow = tmp_path / "mark", tmp_path / "slow"
    groups = [(str(mark),), (str(slow), "and sleeps")]
    with local.beside(groups, marking, device="cuda:1", preload=runner.PRELOAD):
        deadline = time.monotonic() + 60
        while not slow.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mark.read_text() == "cuda:1"
    assert not multiprocessing.active_children()
    with local.beside([], marking, device="", preload=()):
        assert not multiprocessing.active_children()


def test_warming_up_fails_silently(tmp_path):
    plan = plan_sweep(lr(), out=tmp_path)
    assert list(warm_up(plan.groups[0], corpus=plan.corpus, device="cuda:0")) == []


# --- groups that end together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [2, 3, 4, 8])
def test_the_default_sweep_keeps_every_gpu_busy_to_the_end(places):
    runs = default_runs()
    whole = sum(cuda_seconds(group[0], len(group)) for group in group_runs(runs, "cuda:0"))
    groups = group_runs(runs, "cuda:0", places=places)
    assert sorted(run.run_id for group in groups for run in group) == sorted(run.run_id for run in runs)
    seconds = [cuda_seconds(group[0], len(group)) for group in groups]
    assert makespan(seconds, places) < 1.12 * whole / places
    # without the cut one of them works on while the others wait
    uncut = [cuda_seconds(group[0], len(group)) for group in group_runs(runs, "cuda:0")]
    assert makespan(seconds, places) <= makespan(uncut, places)


def test_a_cut_has_to_pay():
    # what a group costs does not depend on its size: two groups would end later than one
    assert spread([8], [1], lambda _shape, _size: 1.0, 2) == [1]
    # it costs what its runs do: one group a GPU
    assert spread([8], [1], lambda _shape, size: size, 4) == [4]
    assert spread([8, 8], [1, 1], lambda shape, size: size * (10 if shape else 0.1), 2)[1] == 2
    assert makespan([4, 3, 2, 1], 2) == 5


def test_replicas_fill_a_gpu_with_the_tokens_of_one_step_through_the_model():
    runs = default_runs(batch_size=480, seq_len=1024, widths=[256], lrs=[2.0**-8], seeds=12, parametrizations=["sp"])
    assert {len(group) for group in group_runs(runs, "cuda:0")} == {1}
    in_parts = default_runs(
        batch_size=480, seq_len=1024, accumulation=16, widths=[256], lrs=[2.0**-8], seeds=12, parametrizations=["sp"]
    )
    assert {len(group) for group in group_runs(in_parts, "cuda:0")} == {4}


def test_an_exact_sweep_trains_each_run_alone():
    groups = group_runs(default_runs(), "cuda:0", places=4, exact=True)
    assert {len(group) for group in groups} == {1}
    assert len(groups) == 126


# --- backends ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """A machine where Triton's kernels can be told what to say of themselves; return what they were asked."""
    asked = []

    def take(says):
        monkeypatch.setattr("mupcheck.ops.choice.check_triton", lambda *of: asked.append(of))
        monkeypatch.setattr("mupcheck.sweep.backend.faults_of", lambda *_: says)
        return asked

    return take


def lr(**changes):
    """Return a sweep that is worth compiling kernels for: by chunk it would take a GPU minutes."""
    return tiny(**{"widths": (16, 32), "steps": 1_000_000, "batch_size": 256} | changes)


def test_auto_is_triton_on_a_gpu_where_it_passes_its_test(kernels):
    asked = kernels([])
    assert backend_of(lr(), ("cuda:0",)) == "triton"
    assert asked[0][:2] == ("cuda:0", "float32")
    assert backend_of(lr(), ("cpu",)) == "chunk"
    assert backend_of(lr(backend="reference"), ("cuda:0",)) == "reference"
    assert backend_of(lr(backend="triton"), ("cuda:0",)) == "triton"


def test_auto_compiles_no_kernels_for_what_would_be_over_before(kernels):
    asked = kernels([])
    for small in (tiny_coord(), lr(steps=2000), lr(batch_size=1, steps=2000)):
        assert backend_of(small, ("cuda:0",)) == "chunk"
    assert not asked
    assert backend_of(lr(), ("cuda:0",)) == "triton"
    # more runs, or longer ones, are worth it; more shapes of heads take more compiling
    assert backend_of(lr(steps=2000, seeds=[*range(2000)]), ("cuda:0",)) == "triton"
    assert backend_of(tiny_coord(backend="triton"), ("cuda:0",)) == "triton"


def test_kernels_that_are_wrong_are_not_taken_and_that_is_said(kernels):
    kernels(["Triton's kernels at K = 6 are wrong: o is off by 3.0e-01"])
    with pytest.warns(UserWarning, match=r"off by 3\.0e-01; backend 'auto' takes 'chunk' instead"):
        assert backend_of(lr(), ("cuda:0",)) == "chunk"
    with pytest.raises(ValueError, match=r"off by 3\.0e-01; try backend='chunk'"):
        backend_of(lr(backend="triton"), ("cuda:0",))


def test_kernels_are_tested_in_processes_of_their_own():
    # where there is no such device each shape says so, and this process knows nothing of it
    faults = faults_of([(2, 8, 16), (2, 12, 24)], "float32", TWO)
    assert len(faults) == 2
    assert all("do not run" in fault or "cannot be tested on cuda:" in fault for fault in faults)


@pytest.mark.parametrize(("says", "tried"), [("cannot be tested on cuda:0: busy", [2, 1]), ("are wrong", [2])])
def test_kernels_that_no_other_process_can_test_are_tested_here(monkeypatch, says, tried):
    jobs_asked = []

    def execute(groups, _work, *, jobs, **_):
        jobs_asked.append(jobs)
        error = f"Triton's kernels {says}" if jobs > 1 else None
        return [local.Message(group, error=error) for group in groups]

    monkeypatch.setattr(local, "execute", execute)
    assert bool(faults_of([(2, 8, 16)], "float32", TWO)) == (tried == [2])
    assert jobs_asked == tried


def test_the_backend_that_computes_is_part_of_every_run(tmp_path):
    plan = replace(plan_sweep(tiny(), out=tmp_path), backend="triton")
    runs = plan.sweep.runs(**plan.source)
    assert {run.backend for run in runs} == {"triton"}
    assert {run.run_id for run in runs}.isdisjoint(run.run_id for run in plan.runs)
    named = tiny(backend="reference").runs(**plan.source)
    assert {run.backend for run in named} == {"reference"}


def test_triton_without_a_gpu_is_one_line_and_exit_code_2(tmp_path):
    for more in ((), ("--dry-run",)):
        answer = mupcheck(
            "lr-sweep", "--data", "synthetic", "--device", "cpu", "--backend", "triton", "--out", tmp_path, *more
        )
        assert answer.code == exits.USAGE
        assert answer.err == "error: --backend 'triton' needs a CUDA device, not 'cpu'; try --backend 'chunk'\n"
    assert list(tmp_path.iterdir()) == []


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_device_is_every_gpu_or_the_one_that_is_named(monkeypatch):
    import torch

    monkeypatch.setattr(plan_file, "GPU_DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_devices("auto") == find_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert find_devices("cuda:1") == ("cuda:1",)
    assert find_devices("cpu") == ("cpu",)
    with pytest.raises(ValueError, match="'cuda:3' is not there: torch sees 3 GPUs"):
        find_devices("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_devices("auto") == ("cpu",)
    with pytest.raises(ValueError, match="torch sees 0 GPUs; try cpu"):
        find_devices("cuda")
