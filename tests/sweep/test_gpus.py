"""Several GPUs: a lasting process on each, one that is lost, runs that train alone; no GPU is needed here."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from dataclasses import replace

import pytest
from fake_gpus import TWO, on_gpus
from tiny_sweeps import assert_same, numbers, tiny

from mupcheck.results.reading import load_results
from mupcheck.sweep import runner
from mupcheck.sweep.engines import local
from mupcheck.sweep.group import run_group
from mupcheck.sweep.groups import group_runs
from mupcheck.sweep.runner import execute, not_alone

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
