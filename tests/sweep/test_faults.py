"""What goes wrong costs its run alone, a bug too."""

import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.files import StoreError
from mupcheck.results.reading import load_results, read_sweep, say_incomplete
from mupcheck.sweep import runner
from mupcheck.sweep.engines import local
from mupcheck.sweep.group import run_group
from mupcheck.sweep.limits import Limits
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.runner import execute, run_sweep

# --- faults -----------------------------------------------------------------------------------------------------------


def is_marked(group):
    return any(run.lr == 2.0**-6 and run.parametrization == "sp" and run.width == 32 for run in group)


def killed(group, **options):
    """Work that SIGKILLs its process when a certain run is in its group, as the kernel does when memory ends."""
    if is_marked(group):
        os.kill(os.getpid(), signal.SIGKILL)
    yield from run_group(group, **options)


def crowded(group, **options):
    """Work that runs out of memory where more than two runs share a model."""
    if len(group) > 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 TiB\nand a second line")
    yield from run_group(group, **options)


def full_disk(group, **options):
    if is_marked(group):
        raise StoreError("cannot write x.parquet: No space left on device")
    yield from run_group(group, **options)


def broken(group, **options):
    if is_marked(group):
        raise KeyError("a bug")
    yield from run_group(group, **options)


def leaving(group, **options):
    if is_marked(group):
        os._exit(3)
    yield from run_group(group, **options)


def hanging(group, **options):
    """Work that does nothing any more, and does not go when it is asked to."""
    if is_marked(group):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(600)
    yield from run_group(group, **options)


def executed(monkeypatch, work, out, jobs):
    """Execute the tiny sweep with `work` in place of the real one; return all Progress."""
    monkeypatch.setattr(runner, "run_group", work)
    return list(execute(plan_sweep(tiny(), out=out), jobs=jobs))


@pytest.mark.parametrize("fresh", [False, True])
def test_what_failed_here_and_another_process_trained_since_is_no_error(done, tmp_path, monkeypatch, fresh):
    where, whole, _ = done

    def late(group, **options):
        if is_marked(group):
            if len(group) == 1:  # and no part of it is left to try
                for table in ("steps", "runs"):
                    shutil.copy(where / "tiny" / table / f"{group[0].run_id}.parquet", tmp_path / "tiny" / table)
            raise MemoryError("it is out of memory")
        yield from run_group(group, **options)

    trained(tiny(widths=(16,)), tmp_path, jobs=1)  # its folders
    monkeypatch.setattr(runner, "run_group", late)
    if fresh:  # what is there is not what was asked for
        with pytest.raises(StoreError, match="out of memory"):
            run_sweep(tiny(), out=tmp_path, jobs=1, fresh=True, device="cpu")
    else:
        # in other groups the norm of gradients may round otherwise
        assert_same(numbers(run_sweep(tiny(), out=tmp_path, jobs=1, device="cpu")), numbers(whole), rtol=1e-6)


def test_a_killed_worker_costs_its_run_alone(done, tmp_path, monkeypatch):
    _, whole, _ = done
    progress = executed(monkeypatch, killed, tmp_path, jobs=2)
    errors = [state for state in progress if state.error]
    # 4 runs of width 32, then 2, then the one
    assert [state.retried for state in errors] == [True, True, False]
    assert all("SIGKILL" in state.error for state in errors)
    assert "1 runs of width 32" in errors[-1].error
    assert progress[-1].runs_finished == 7
    left = load_results(tmp_path / "tiny")
    assert len(left.runs) == 7
    assert_same(numbers(left), numbers(whole, set(left.runs["run_id"])), rtol=1e-5)

    # with a worker that lives, the next call trains what is missing
    monkeypatch.undo()
    healed, _ = trained(tiny(), tmp_path, jobs=1)
    assert_same(numbers(healed), numbers(whole), rtol=1e-5)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_group_that_does_not_fit_in_memory_is_split_until_it_does(done, tmp_path, monkeypatch, jobs):
    _, whole, _ = done
    progress = executed(monkeypatch, crowded, tmp_path, jobs)
    errors = [state for state in progress if state.error]
    assert [state.error.split(" runs")[0] for state in errors] == ["4", "4"]
    assert all(state.retried and "out of memory" in state.error for state in errors)
    assert not any("\n" in state.error for state in errors)
    assert progress[-1].runs_finished == 8
    assert math.isclose(progress[-1].done, progress[-1].total)
    results, _ = trained(tiny(), tmp_path, jobs=1)  # nothing failed, so nothing is raised
    assert_same(numbers(results), numbers(whole), rtol=1e-5)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_of_the_store_is_reported_and_the_rest_is_stored(tmp_path, monkeypatch, jobs):
    progress = executed(monkeypatch, full_disk, tmp_path, jobs)
    errors = [state for state in progress if state.error]
    assert [state.retried for state in errors] == [False]  # a smaller group does not make room on a disk
    assert "No space left on device" in errors[0].error
    assert set(load_results(tmp_path / "tiny").runs["width"]) == {16}
    with pytest.raises(StoreError, match=r"4 of 8 runs failed.*No space left"):
        run_sweep(tiny(), out=tmp_path / "again", device="cpu", jobs=jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bug_in_the_work_costs_its_group_alone_and_its_traceback_is_kept(done, tmp_path, monkeypatch, jobs):
    _, whole, _ = done
    progress = executed(monkeypatch, broken, tmp_path, jobs)
    (state,) = [state for state in progress if state.error]
    assert not state.retried
    said, _, file = state.error.partition("; its traceback is in ")
    assert said == "4 runs of width 32: KeyError: 'a bug'"
    text = Path(file).read_text()
    assert text.startswith(said) and "in broken\n" in text and "Traceback (most recent call last)" in text
    assert "torch " in text
    entries = read_sweep(tmp_path / "tiny")["failed"]
    assert [each["width"] for each in entries] == [32] * 4
    assert Path(file).stem in {each["run_id"] for each in entries}
    left = load_results(tmp_path / "tiny")
    assert set(left.runs["width"]) == {16}
    assert ", 4 of them failed (4 runs of width 32: KeyError: 'a bug', its traceback" in say_incomplete(left, "tiny")

    # those that failed can be left out, and by itself the next call tries them again
    kept = plan_sweep(tiny(), out=tmp_path, retry_failed=False)
    assert (kept.missing, kept.left_out, kept.n_there) == (0, 4, 4)
    assert list(execute(kept)) == []
    assert read_sweep(tmp_path / "tiny")["failed"] == entries and Path(file).exists()
    monkeypatch.undo()
    healed, _ = trained(tiny(), tmp_path, jobs=1)
    assert_same(numbers(healed), numbers(whole), rtol=1e-5)
    assert "failed" not in read_sweep(tmp_path / "tiny") and not Path(file).parent.exists()


class Unreadable:
    """Work that no other process can take in."""

    def __reduce__(self):
        return _no_module, ()


def _no_module():
    raise ModuleNotFoundError("No module named 'planted'")


def test_workers_that_cannot_start_are_told_group_by_group():
    groups = [("a",), ("b", "c")]
    messages = list(local.execute(groups, Unreadable(), jobs=2, preload=runner.PRELOAD, contain=True))
    assert sorted(message.group for message in messages) == groups
    assert all(message.error.startswith("a worker ended w") for message in messages)
    with pytest.raises(RuntimeError, match="a worker ended w"):
        list(local.execute(groups, Unreadable(), jobs=2, preload=runner.PRELOAD))


def test_a_worker_that_leaves_costs_its_group_alone(tmp_path, monkeypatch):
    progress = executed(monkeypatch, leaving, tmp_path, jobs=2)
    (state,) = [state for state in progress if state.error]
    assert state.error.endswith("a worker ended with exit code 3")
    assert set(load_results(tmp_path / "tiny").runs["width"]) == {16}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_group_that_hangs_is_ended_after_its_time(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(runner, "run_group", hanging)
    start = time.monotonic()
    progress = list(execute(plan_sweep(tiny(), out=tmp_path, limits=Limits(group_seconds=4)), jobs=jobs))
    assert time.monotonic() - start < 60
    (state,) = [state for state in progress if state.error]
    assert state.error == "4 runs of width 32: it took longer than 4 s and was ended"
    assert set(load_results(tmp_path / "tiny").runs["width"]) == {16}


def test_an_unwritable_folder_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_group", lambda *_, **__: pytest.fail("it trained"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to"):
        run_sweep(tiny(), out=tmp_path / "file", device="cpu")
    with pytest.raises(ValueError, match="fewer than one batch"):
        run_sweep(tiny(seq_len=2**22), out=tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match="unknown"):
        run_sweep(tiny(), out=tmp_path / "out", device="tpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
