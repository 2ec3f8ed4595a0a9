"""Several GPUs: a lasting process on each, groups that end together, one that is lost; no GPU is needed here."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from contextlib import nullcontext
from dataclasses import replace

import pytest
from commands import mupcheck
from tiny_sweeps import assert_same, numbers, tiny, tiny_coord

from mupcheck.cli import exits
from mupcheck.results.reading import load_results
from mupcheck.sweep import plan as plan_file
from mupcheck.sweep import runner
from mupcheck.sweep.cost import cuda_seconds
from mupcheck.sweep.engines import local
from mupcheck.sweep.group import run_group
from mupcheck.sweep.groups import group_runs, makespan, spread
from mupcheck.sweep.plan import backend_of, find_devices, plan_sweep
from mupcheck.sweep.runner import execute, not_alone

TWO = ("cuda:0", "cuda:1")


# --- the engine: work that pretends -----------------------------------------------------------------------------------


def telling(group, device):
    """Work whose error says where it was done and by which process; a group names the device that goes with it."""
    time.sleep(0.05)
    yield 1
    how, *where = group[0].split()
    if not where or device in where:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "faulty":
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")
        if how == "full":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")
        if how == "bug":
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
    raise ValueError(f"{device} {os.getpid()}")


def ends(groups, devices, jobs=None):
    """Return the last message of every group."""
    messages = local.execute(groups, telling, jobs=jobs or len(devices), preload=runner.PRELOAD, devices=devices)
    return [message for message in messages if message.steps is None]


def test_each_gpu_has_one_process_that_stays_for_all_its_groups():
    done = ends([("well",)] * 8, TWO)
    assert len(done) == 8
    workers = defaultdict(set)
    for message in done:
        device, worker = message.error.split()
        workers[device].add(worker)
    assert set(workers) == set(TWO)
    assert all(len(processes) == 1 for processes in workers.values())
    assert str(os.getpid()) not in set().union(*workers.values())


def test_a_single_gpu_works_in_this_process():
    assert [message.error for message in ends([("well",)], ("cuda:1",))] == [f"cuda:1 {os.getpid()}"]


@pytest.mark.parametrize("how", ["killed", "faulty"])
def test_a_gpu_that_is_lost_gets_no_other_group(how):
    done = ends([(f"{how} cuda:1",)] * 2 + [("well",)] * 6, TWO)
    lost = [message for message in done if message.lost]
    assert [message.lost for message in lost] == ["cuda:1"]
    assert ("SIGKILL" if how == "killed" else "unspecified launch failure") in lost[0].error
    assert not lost[0].retry
    assert all(message.error.startswith("cuda:0 ") for message in done if not message.lost)
    assert len(done) == 8


@pytest.mark.parametrize("devices", [("cuda:0",), TWO])
def test_when_no_gpu_is_left_the_groups_that_wait_fail_and_say_so(devices):
    done = ends([("faulty",)] * 5, devices)
    assert sorted(message.lost for message in done if message.lost) == list(devices)
    stranded = [message for message in done if not message.lost]
    assert len(stranded) == 5 - len(devices)
    assert all("no GPU is left, the last was cuda:" in message.error for message in stranded)
    assert all("unspecified launch failure" in message.error for message in stranded)


@pytest.mark.parametrize("devices", [("cuda:0",), TWO])
def test_memory_that_runs_out_is_not_a_lost_gpu_and_a_capture_that_fails_is_a_bug(devices):
    (full, well) = sorted(ends([("full",), ("well",)], devices), key=lambda message: message.retry, reverse=True)
    assert full.retry
    assert not full.lost
    assert full.error == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."
    assert well.error.startswith("cuda:")
    with pytest.raises(RuntimeError, match="capturing" if len(devices) == 1 else "exit code 1"):
        ends([("bug",)], devices)


def test_groups_that_come_while_it_works_are_worked_through():
    waiting = deque([("well",), ("well",)])
    seen = 0
    for message in local.execute(waiting, telling, jobs=2, preload=runner.PRELOAD, devices=TWO):
        if message.steps is None:
            seen += 1
            waiting.extend([("well",)] if seen == 2 else [])
    assert seen == 3


def test_what_the_fork_server_imports_leaves_cuda_alone():
    # a process forked from one that has asked CUDA anything cannot use it
    code = "import torch\ndef refuse(*_): raise SystemExit('CUDA was asked')\n"
    code += "torch._C._cuda_getDeviceCount = torch.cuda._lazy_init = refuse\n"
    code += "".join(f"import {module}\n" for module in runner.PRELOAD)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", code + "torch.cuda.is_available()"], check=False).returncode != 0


# --- a sweep ----------------------------------------------------------------------------------------------------------


def on_gpus(sweep, out, devices=TWO, **options):
    """Plan a sweep as for GPUs that are not there."""
    plan = replace(plan_sweep(sweep, out=out), device=devices[0], devices=devices, jobs=len(devices), **options)
    groups = tuple(group_runs(plan.runs, devices[0], places=len(devices), exact=plan.exact))
    return replace(plan, groups=groups)


def here(group, device, **options):
    """Work that trains on the CPU what was meant for a GPU."""
    yield from run_group(group, device="cpu", **options)


def without_the_second(group, device, **options):
    if device == "cuda:1":
        raise RuntimeError("CUDA error: device-side assert triggered")
    yield from here(group, device, **options)


def with_a_poisonous_group(group, device, **options):
    if group[0].width == 32:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from here(group, device, **options)


def compared(_task, **_):
    yield from ()


def executed(monkeypatch, work, plan):
    monkeypatch.setattr(runner, "run_group", work)
    monkeypatch.setattr(runner, "compare_path", compared)
    return list(execute(plan))


def test_a_sweep_over_two_gpus_trains_every_run_once(done, tmp_path, monkeypatch):
    _, whole, _ = done
    progress = executed(monkeypatch, here, on_gpus(tiny(), tmp_path))
    assert not any(state.error for state in progress)
    assert progress[-1].runs_finished == 8
    assert progress[-1].seconds_left == 0
    assert_same(numbers(load_results(tmp_path / "tiny")), numbers(whole), rtol=1e-5)


def test_the_runs_of_a_lost_gpu_go_to_the_other_and_it_is_named(done, tmp_path, monkeypatch):
    _, whole, _ = done
    progress = executed(monkeypatch, without_the_second, on_gpus(tiny(), tmp_path))
    errors = [state for state in progress if state.error]
    assert [state.retried for state in errors] == [True]
    assert errors[0].note == "cuda:1 is lost and not used any more: CUDA error: device-side assert triggered"
    assert progress[-1].runs_finished == 8
    assert progress[-1].done == pytest.approx(progress[-1].total)
    assert_same(numbers(load_results(tmp_path / "tiny")), numbers(whole), rtol=1e-5)


def test_a_group_that_takes_two_gpus_with_it_is_not_given_a_third(tmp_path, monkeypatch):
    plan = on_gpus(tiny(), tmp_path, devices=("cuda:0", "cuda:1", "cuda:2"))
    plan = replace(plan, groups=tuple(group_runs(plan.runs, "cuda:0")))  # one of each width
    progress = executed(monkeypatch, with_a_poisonous_group, plan)
    errors = [state for state in progress if state.error]
    assert [state.retried for state in errors] == [True, False]
    assert "4 runs of width 32: its process was ended by SIGKILL" in errors[-1].error
    assert progress[-1].runs_finished == 4
    resolved = json.loads((tmp_path / "tiny" / "sweep.json").read_text())
    assert {each["width"] for each in resolved["failed"]} == {32}
    assert len(resolved["failed"]) == 4
    assert all(each["estimated_bytes"] > 2**20 for each in resolved["failed"])
    # trained after all, nothing is left of it
    executed(monkeypatch, here, on_gpus(tiny(), tmp_path))
    assert "failed" not in json.loads((tmp_path / "tiny" / "sweep.json").read_text())


# --- groups that end together -----------------------------------------------------------------------------------------


def default_runs(**changes):
    from mupcheck.spec.reading import make_sweep

    sweep = make_sweep({"kind": "lr", **changes}, device="cuda")
    return sweep.runs(vocab_size=256, data_hash="", backend="triton")


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


def test_an_exact_sweep_trains_each_run_alone():
    groups = group_runs(default_runs(), "cuda:0", places=4, exact=True)
    assert {len(group) for group in groups} == {1}
    assert len(groups) == 126


def test_sweep_json_names_the_runs_that_were_trained_alone(tmp_path, monkeypatch):
    def exact():
        return json.loads((tmp_path / "tiny" / "sweep.json").read_text())["exact"]

    first = on_gpus(tiny(lrs=(2.0**-8,)), tmp_path)
    executed(monkeypatch, here, first)
    assert exact() == []
    plan = on_gpus(tiny(), tmp_path, exact=True)
    beside = {run.run_id for run in first.runs}
    plan = replace(plan, groups=tuple(group for group in plan.groups if group[0].run_id not in beside))
    assert not_alone(plan) == 4
    assert not_alone(replace(plan, device="cpu")) == 0  # where no run depends on another anyway
    executed(monkeypatch, here, plan)
    assert set(exact()) == {run.run_id for run in plan.runs} - beside
    # trained again beside others, they are not alone any more
    executed(monkeypatch, here, on_gpus(tiny(), tmp_path))
    assert exact() == []


# --- backends ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """A machine where Triton's kernels can be told what to say of themselves; return what they were asked."""
    asked = []

    def take(says):
        monkeypatch.setattr("mupcheck.ops.choice.check_triton", lambda *of: asked.append(of))
        monkeypatch.setattr("mupcheck.ops.choice.self_test", lambda *_: says)
        monkeypatch.setattr("torch.cuda.device", lambda _: nullcontext())
        return asked

    return take


def lr(**changes):
    return tiny(widths=(16, 32), **changes)


def test_auto_is_triton_on_a_gpu_where_it_passes_its_test(kernels):
    asked = kernels("")
    assert backend_of(lr(), "cuda:0") == "triton"
    assert asked[0][:2] == ("cuda:0", "float32")
    assert backend_of(lr(), "cpu") == "chunk"
    assert backend_of(lr(backend="reference"), "cuda:0") == "reference"
    assert backend_of(lr(backend="triton"), "cuda:0") == "triton"
    # a few steps of a few tokens are over before kernels are compiled
    assert backend_of(tiny_coord(), "cuda:0") == "chunk"
    assert backend_of(tiny_coord(backend="triton"), "cuda:0") == "triton"


def test_kernels_that_are_wrong_are_not_taken_and_that_is_said(kernels):
    kernels("Triton's kernels at K = 6 are wrong: o is off by 3.0e-01")
    with pytest.warns(UserWarning, match=r"off by 3\.0e-01; backend 'auto' takes 'chunk' instead"):
        assert backend_of(lr(), "cuda:0") == "chunk"
    with pytest.raises(ValueError, match=r"off by 3\.0e-01; try --backend chunk"):
        backend_of(lr(backend="triton"), "cuda:0")


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
