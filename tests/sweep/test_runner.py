"""A sweep from spec to files: whole, resumable, the same in any number of processes, surviving what kills a part."""

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mupcheck.model.build import build_model
from mupcheck.results.files import StoreError
from mupcheck.results.reading import load_results
from mupcheck.spec.reading import make_sweep
from mupcheck.sweep import runner
from mupcheck.sweep.engines import local
from mupcheck.sweep.group import final_loss, run_group
from mupcheck.sweep.plan import CPU_REPLICAS, estimate, group_runs, plan_sweep
from mupcheck.sweep.runner import Progress, execute, rounds, run_sweep

# what tells about the machine and the moment, not about the run
OF_THE_MOMENT = ("wall_seconds", "tokens_per_second", "peak_memory_bytes", "started_at")
HASHES = ("steps_sha256", "coords_sha256", "row_sha256")


def tiny(**changes):
    """Return a sweep of 2 widths x 2 tables x 2 lrs x 1 seed over 32 tokens."""
    fields = {
        "kind": "lr",
        "name": "tiny",
        "data": "synthetic",
        "vocab_size": 32,
        "widths": (16, 32),
        "steps": 4,
        "parametrizations": ("sp", "gdn-mup"),
        "lrs": (2.0**-8, 2.0**-6),
        "seeds": 1,
        "eval_tokens": 64,
        "batch_size": 2,
        "seq_len": 16,
        "n_layers": 1,
        "readout_std": 0.25,
    }
    return make_sweep(fields | changes)


def tiny_coord(**changes):
    lone = {"kind": "coord", "lrs": (2.0**-8,), "seeds": 2, "record": (0, 1, 3), "eval_tokens": 0, "probes": "full"}
    return tiny(**lone | changes)


def trained(sweep, out, **options):
    """Run a sweep; return its results and every Progress."""
    seen: list[Progress] = []
    return run_sweep(sweep, out=out, device="cpu", on_progress=seen.append, **options), seen


def numbers(results, ids=None):
    """Return runs, steps and coords (of `ids` alone) without what is of the moment, in an order of their own."""
    keys = ["run_id", "step", "layer", "site", "kind", "stat"]
    frames = []
    for frame in (results.runs, results.steps, results.coords):
        frame = frame[frame["run_id"].isin(frame["run_id"] if ids is None else ids)]
        frame = frame.drop(columns=[name for name in (*OF_THE_MOMENT, *HASHES) if name in frame])
        in_order = frame.sort_values([key for key in keys if key in frame and frame is not results.runs])
        frames.append(in_order.reset_index(drop=True))
    return frames


def assert_same(one, other, rtol=0.0):
    import pandas as pd  # here, for the processes that find their work in this file and have no use for it

    assert len(one[0]) > 0
    for a, b in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=rtol == 0.0, rtol=rtol, atol=0)


def files(folder):
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The tiny sweep, trained once; tests that change files copy what they need."""
    out = tmp_path_factory.mktemp("done")
    return out, *trained(tiny(), out, jobs=1)


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_run_is_written_whole(done):
    out, results, progress = done
    sweep = tiny()
    plan = plan_sweep(sweep, out=out)
    ids = {run.run_id for run in plan.runs}
    assert plan.missing == 0
    assert len(ids) == 8
    folder = out / "tiny"
    assert {file.stem for file in (folder / "runs").iterdir()} == ids
    assert {file.stem for file in (folder / "steps").iterdir()} == ids
    assert not (folder / "coords").exists()
    assert [file for file in folder.rglob("*") if file.name.startswith(".")] == []
    runs = results.runs.set_index("run_id")
    for run in plan.runs:
        row = runs.loc[run.run_id]
        for name in ("width", "base_width", "parametrization", "lr", "seed", "rules_hash", "data_hash", "steps"):
            assert row[name] == getattr(run, name)
        assert row["status"] == "ok"
        assert row["tokens"] == 4 * 2 * 16
        steps = results.steps[results.steps["run_id"] == run.run_id].sort_values("step")
        assert steps["step"].tolist() == [0, 1, 2, 3]
        assert steps["tokens"].tolist() == [0, 32, 64, 96]
        assert row["train_loss"] == steps["loss"].iloc[-1]
        assert row["val_loss"] == row["best_val_loss"] == steps["val_loss"].iloc[-1]
        assert steps["val_loss"].isna().tolist() == [True, True, True, False]
        assert math.isfinite(row["val_loss"])
    resolved = results.sweeps["tiny"]
    assert set(resolved["run_ids"]) == ids
    assert resolved["spec"]["widths"] == [16, 32]
    done_work = [state.done for state in progress]
    assert all(np.diff(done_work) >= -1e-9 * progress[-1].total)
    assert math.isclose(done_work[-1], progress[-1].total)
    assert (progress[-1].runs_finished, progress[-1].runs_total) == (8, 8)


def test_a_coordinate_check_has_coords_of_the_steps_asked_for(tmp_path):
    results, _ = trained(tiny_coord(widths=(16,), parametrizations=("gdn-mup",)), tmp_path, jobs=1)
    assert len(results.runs) == 2
    per_run = results.coords.groupby("run_id")
    assert set(per_run.groups) == set(results.runs["run_id"])
    for _, coords in per_run:
        assert sorted(set(coords["step"])) == [0, 1, 3]
        assert not coords.duplicated(["step", "layer", "site", "kind", "stat"]).any()
        assert set(coords["kind"]) >= {"activation", "effective_update", "diagnostic"}
    # seeds are replicas of one model with numbers of their own; gains and what the optimizer applies are the same
    one, two = (coords["value"].to_numpy() for _, coords in per_run)
    assert 0.7 < (one != two).mean() < 0.9


def test_the_final_loss_is_the_mean_of_the_last_tenth():
    assert final_loss([5.0, 4.0, 3.0]) == 3.0
    assert final_loss([9.0] * 27 + [1.0, 2.0, 6.0]) == 3.0


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_second_run_trains_nothing_and_a_deleted_run_alone_is_trained_again(tmp_path):
    sweep, folder = tiny(), tmp_path / "tiny"
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(folder)
    again, progress = trained(sweep, tmp_path, jobs=1)
    assert progress == []
    assert files(folder) == untouched
    assert_same(numbers(again), numbers(before))

    lost = sorted((folder / "runs").iterdir())[3]
    lost.unlink()
    plan = plan_sweep(sweep, out=tmp_path)
    assert [[run.run_id for run in group] for group in plan.groups] == [[lost.stem]]
    after, _ = trained(sweep, tmp_path, jobs=1)
    changed = {name for name, mtime in files(folder).items() if untouched[name] != mtime}
    assert changed == {f"runs/{lost.name}", f"steps/{lost.name}"}
    # alone it is one replica instead of four: performance.md allows another rounding of the products
    assert_same(numbers(after), numbers(before), rtol=1e-5)

    plan = plan_sweep(sweep, out=tmp_path, fresh=True)
    assert plan.missing == 8
    # another lr is another run; those that are there stay
    plan = plan_sweep(tiny(lrs=(2.0**-8, 2.0**-6, 2.0**-4)), out=tmp_path)
    assert plan.missing == 4
    assert {run.lr for group in plan.groups for run in group} == {2.0**-4}


def test_fresh_trains_all_of_it_again_to_the_same_bits(tmp_path):
    sweep = tiny_coord(widths=(16,))
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(tmp_path)
    after, _ = trained(sweep, tmp_path, jobs=1, fresh=True)
    assert all(mtime != untouched[name] for name, mtime in files(tmp_path).items())
    assert_same(numbers(after), numbers(before))


# --- lrs that are added -----------------------------------------------------------------------------------------------


REFINED = {"refine": True, "widths": (16,), "parametrizations": ("gdn-mup",), "lrs": (2.0**-9, 2.0**-6), "steps": 8}


def lrs_of(results):
    return sorted(set(results.runs["log2_lr"]))


def test_a_refined_sweep_adds_lrs_until_nothing_is_wanted(tmp_path):
    from mupcheck.learning_rates.refine import next_round

    sweep = tiny(**REFINED, precision=1.0)
    grid, _ = trained(tiny(**REFINED | {"refine": False}), tmp_path / "grid", jobs=1)
    assert lrs_of(grid) == [-9, -6]
    results, progress = trained(sweep, tmp_path, jobs=1)
    assert {-9, -6} < set(lrs_of(results))
    assert progress[-1].runs_finished == len(results.runs)
    assert set(results.sweeps["tiny"]["run_ids"]) == set(results.runs["run_id"])
    assert {(s.log2_lrs, s.reason) for s in next_round(results.runs, lrs=sweep.lrs, precision=1.0)} == {((), "")}

    untouched = files(tmp_path / "tiny")
    again, progress = trained(sweep, tmp_path, jobs=1)
    assert (progress, files(tmp_path / "tiny")) == ([], untouched)
    assert lrs_of(again) == lrs_of(results)
    # without it the sweep is its grid again; what was added stays for when it is asked for
    assert lrs_of(trained(tiny(**REFINED | {"refine": False}), tmp_path, jobs=1)[0]) == [-9, -6]
    assert lrs_of(trained(sweep, tmp_path, jobs=1)[0]) == lrs_of(results)


def test_an_interrupted_search_goes_on_as_it_would_have_gone(tmp_path):
    sweep = tiny(**REFINED, precision=0.5)
    whole, _ = trained(sweep, tmp_path / "whole", jobs=1)
    first = plan_sweep(sweep, out=tmp_path / "cut")
    for i, plan in enumerate(rounds(first)):
        list(execute(plan, jobs=1))
        if i == 1:
            break  # as Ctrl-C does, in the middle of the search
    assert 2 < len(lrs_of(load_results(tmp_path / "cut" / "tiny"))) < len(lrs_of(whole))
    before = files(tmp_path / "cut" / "tiny")
    gone_on, _ = trained(sweep, tmp_path / "cut", jobs=1)
    assert lrs_of(gone_on) == lrs_of(whole)
    after = files(tmp_path / "cut" / "tiny")
    assert {name: after[name] for name in before} == before, "nothing is trained twice"


def test_a_fresh_search_trains_every_run_once(tmp_path):
    sweep = tiny(**REFINED, precision=1.0)
    before, _ = trained(sweep, tmp_path, jobs=1)
    untouched = files(tmp_path)
    plans = []
    for plan in rounds(plan_sweep(sweep, out=tmp_path, fresh=True), fresh=True):
        plans.append([run.run_id for group in plan.groups for run in group])
        list(execute(plan, jobs=1))
    assert sorted(run_id for plan in plans for run_id in plan) == sorted(before.runs["run_id"])
    assert len(plans) > 1
    assert all(mtime != untouched[name] for name, mtime in files(tmp_path).items())


# --- what must not change the numbers ---------------------------------------------------------------------------------


def test_two_processes_give_the_bits_of_one(done, tmp_path):
    _, one, _ = done
    two, progress = trained(tiny(), tmp_path, jobs=2)
    assert_same(numbers(two), numbers(one))
    assert progress[-1].runs_finished == 8


def test_the_order_of_the_grid_does_not_change_the_numbers(done, tmp_path):
    _, one, _ = done
    other, _ = trained(tiny(widths=(32, 16)), tmp_path / "a", jobs=1)
    assert_same(numbers(other), numbers(one))
    # here replicas trade places within a group, which may round a product differently
    shuffled = {"widths": (32, 16), "parametrizations": ("gdn-mup", "sp"), "lrs": (2.0**-6, 2.0**-8)}
    other, _ = trained(tiny(**shuffled), tmp_path / "b", jobs=1)
    assert_same(numbers(other), numbers(one), rtol=1e-5)


def test_a_diverged_run_is_recorded_and_its_neighbours_are_as_without_it(tmp_path):
    def sweep(name, *lrs):
        return tiny(name=name, widths=(16,), parametrizations=("gdn-mup",), lrs=lrs, steps=8)

    # the same number of replicas, so the same bits
    beside, _ = trained(sweep("beside", 2.0**-8, 1e30, 2.0**-6), tmp_path, jobs=1)
    alone, _ = trained(sweep("alone", 2.0**-8, 2.0**-7, 2.0**-6), tmp_path, jobs=1)
    sick = beside.runs[beside.runs["lr"] == 1e30].iloc[0]
    assert sick["status"] == "diverged"
    assert sick["diverged_step"] == 1
    assert "not finite" in sick["reason"]
    assert np.isnan(sick["val_loss"])
    assert not np.isfinite(sick["train_loss"])
    steps = beside.steps[beside.steps["run_id"] == sick["run_id"]]
    assert steps["step"].tolist() == [0, 1]  # what comes after it was frozen is no measurement
    well = set(beside.runs["run_id"]) & set(alone.runs["run_id"])
    assert len(well) == 2
    for results in (beside, alone):
        results.runs["sweep"] = ""
    assert_same(numbers(beside, well), numbers(alone, well))
    healthy = beside.runs[beside.runs["run_id"].isin(well)]
    assert set(healthy["status"]) == {"ok"}
    assert healthy["reason"].isna().all()
    # a diverged run is a result: it is not trained again
    assert plan_sweep(sweep("beside", 2.0**-8, 1e30, 2.0**-6), out=tmp_path).missing == 0


def test_a_sweep_of_nothing_but_divergence_ends_well(tmp_path):
    results, _ = trained(tiny_coord(widths=(16,), lrs=(1e30,)), tmp_path, jobs=1)
    assert set(results.runs["status"]) == {"diverged"}
    assert set(results.coords["step"]) == {0, 1}


def test_clipping_is_counted(tmp_path):
    always, _ = trained(tiny(widths=(16,), clip=1e-3), tmp_path / "a", jobs=1)
    never, _ = trained(tiny(widths=(16,), clip=1e9), tmp_path / "b", jobs=1)
    assert always.runs["clipped_fraction"].tolist() == [1.0] * 4
    assert never.runs["clipped_fraction"].tolist() == [0.0] * 4


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


def executed(monkeypatch, work, out, jobs):
    """Execute the tiny sweep with `work` in place of the real one; return all Progress."""
    monkeypatch.setattr(runner, "run_group", work)
    return list(execute(plan_sweep(tiny(), out=out), jobs=jobs))


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
def test_a_bug_in_the_work_ends_the_sweep(tmp_path, monkeypatch, jobs):
    with pytest.raises(KeyError if jobs == 1 else RuntimeError, match="a bug" if jobs == 1 else "exit code 1"):
        executed(monkeypatch, broken, tmp_path, jobs)


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


# --- groups and estimates ---------------------------------------------------------------------------------------------


def test_groups_share_a_shape_and_come_costliest_first():
    sweep = tiny(widths=(16, 64, 32), lrs=tuple(2.0**-i for i in range(10)), seeds=2)
    runs = sweep.runs(vocab_size=32, data_hash="")
    groups = group_runs(runs, "cpu")
    assert Counter(run.run_id for group in groups for run in group) == Counter(run.run_id for run in runs)
    assert all(len({run.group for run in group}) == 1 for group in groups)
    assert [group[0].width for group in groups] == sorted((group[0].width for group in groups), reverse=True)
    sizes = {len(group) for group in groups}
    assert max(sizes) <= CPU_REPLICAS
    assert max(sizes) - min(sizes) <= 1  # 40 runs of a width: 14, 13 and 13, rather than 16, 16 and 8
    narrow = [run for run in runs if run.width == 16]
    assert [len(group) for group in group_runs(narrow[: 2 * CPU_REPLICAS], "cpu")] == [CPU_REPLICAS] * 2


def test_the_estimate_is_positive_and_counts_what_the_model_has(tmp_path):
    sweep = tiny(widths=(16, 64), n_layers=2)
    plan = plan_sweep(sweep, out=tmp_path)
    answer = estimate(plan)
    assert answer.seconds > 0
    assert answer.flops == pytest.approx(sum(row["run_flops"] * row["missing"] for row in answer.widths))
    assert [row["width"] for row in answer.widths] == [16, 64]
    for row in answer.widths:
        run = next(run for run in plan.runs if run.width == row["width"])
        parameters = sum(parameter.numel() for parameter in build_model([run]).parameters())
        assert row["n_params"] == parameters
        assert (row["runs"], row["missing"]) == (4, 4)
        assert row["group_bytes"] >= 4 * 4 * 4 * parameters  # 4 replicas: float32 weight, gradient and two moments
        # 6 FLOPs per weight and token, over 4 steps of 32 tokens; the embedding's rows are looked up
        matrices = parameters - 32 * row["width"]
        assert 0.9 * 6 * matrices <= row["run_flops"] / (4 * 32) <= 6 * parameters + 1e6
    assert list(tmp_path.iterdir()) == []


# --- the engine -------------------------------------------------------------------------------------------------------


def counting(group):
    for _ in group:
        time.sleep(0.06)
        yield 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_engine_reports_steps_and_ends(jobs):
    groups = [("a", "b", "c"), ("d",), ("e", "f")]
    messages = list(local.execute(groups, counting, jobs=jobs, preload=runner.PRELOAD))
    ends = [message for message in messages if message.steps is None]
    assert sorted(message.group for message in ends) == sorted(groups)
    assert not any(message.error for message in messages)
    steps = Counter()
    for message in messages:
        steps[message.group] += message.steps or 0
    # a child collects its steps and may end before it sent the last of them
    assert all(steps[group] <= len(group) for group in groups)
    assert steps[groups[0]] > 0


def wait_for_children(marks):
    """Run two children that sleep and a quick one; return the engine when the quick one ended and the others sleep."""
    engine = local.execute(
        [*((str(mark),) for mark in marks), ("quick",)], sleeping_or_quick, jobs=3, preload=runner.PRELOAD
    )
    assert next(engine).group == ("quick",)
    assert wait_until(lambda: all(mark.exists() for mark in marks))
    return engine


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["left", "killed"])
def test_children_end_with_the_engine_that_started_them(tmp_path, how):
    marks = [tmp_path / "a", tmp_path / "b"]
    if how == "left":
        engine = wait_for_children(marks)
    else:
        code = "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_runner as t; "
        code += "engine = t.wait_for_children([Path(mark) for mark in sys.argv[2:]]); time.sleep(600)"
        driver = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), *map(str, marks)])
        assert wait_until(lambda: all(mark.exists() for mark in marks) or driver.poll() is not None)
    children = [int(mark.read_text()) for mark in marks]
    assert all(is_running(pid) for pid in children)
    if how == "left":
        engine.close()
    else:
        driver.kill()
        driver.wait()
    try:
        assert wait_until(lambda: not any(is_running(pid) for pid in children), seconds=20)
    finally:
        for pid in filter(is_running, children):
            os.kill(pid, signal.SIGKILL)


def sleeping_or_quick(group):
    if group[0] != "quick":
        mark = Path(group[0])
        mark.with_suffix(".tmp").write_text(str(os.getpid()))
        mark.with_suffix(".tmp").rename(mark)
        time.sleep(600)
    yield 1


def wait_until(condition, seconds=60.0):
    """Poll until the condition holds, and say whether it did; a loaded machine needs patience, an idle one none."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def stat(pid):
    """Return (state, session) of a process from /proc, None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[3])


def is_running(pid):
    found = stat(pid)
    return found is not None and found[0] != "Z"


def session_members(session):
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if (found := stat(pid)) and found[0] != "Z" and found[1] == session]


LONG_SWEEP = (
    *("--data", "synthetic", "--widths", "16", "-p", "gdn-mup", "--lrs", "1e-5:1e-1:1.02", "--seeds", "1"),
    *("--steps", "40", "--batch-size", "2", "--seq-len", "16", "--eval-tokens", "32", "--device", "cpu", "--jobs", "2"),
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
@pytest.mark.parametrize(("ending", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_sweep_leaves_finished_runs_and_no_processes(tmp_path, ending, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "mupcheck", "lr-sweep", *LONG_SWEEP, "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # where the tests run in the background of a shell, SIGINT is ignored, and a child inherits that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    runs = tmp_path / "lr" / "runs"
    try:
        assert wait_until(lambda: (runs.is_dir() and any(runs.glob("*.parquet"))) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        if ending == "SIGINT":  # Ctrl-C reaches all of the terminal's processes
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, ending))
        _, said = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in said
        if ending == "SIGINT":
            assert "interrupted" in said
            assert " ".join(LONG_SWEEP) in said  # the line to resume
        assert wait_until(lambda: not session_members(process.pid)), session_members(process.pid)
    finally:
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
    results = load_results(tmp_path / "lr")  # every file is whole
    assert 0 < len(results.runs) < 466
    assert set(results.steps.groupby("run_id").size()) == {40}
