"""What a plan would cost."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
from tiny_sweeps import tiny, tiny_coord

from mupcheck.model.build import build_model
from mupcheck.sweep import cost, timing
from mupcheck.sweep import estimate as estimate_file
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.estimate import GROUP_SECONDS, SWEEP_SECONDS, estimate, predict_seconds
from mupcheck.sweep.groups import group_cost
from mupcheck.sweep.pace import Pace
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.timing import seconds_per_work, time_widths
from mupcheck.terminal.plan_page import print_plan


def test_the_estimate_is_positive_and_counts_what_the_model_has(tmp_path):
    sweep = tiny(widths=(16, 64), n_layers=2, eval_tokens=0)
    plan = plan_sweep(sweep, out=tmp_path)
    answer = estimate(plan)
    assert answer.seconds > SWEEP_SECONDS
    assert answer.flops == pytest.approx(sum(row["run_flops"] * row["missing"] for row in answer.widths))
    assert [row["width"] for row in answer.widths] == [16, 64]
    for row in answer.widths:
        run = next(run for run in plan.runs if run.width == row["width"])
        parameters = sum(parameter.numel() for parameter in build_model([run]).parameters())
        assert row["n_params"] == parameters
        assert (row["runs"], row["missing"]) == (4, 4)
        assert row["group_bytes"] == group_bytes(run, 4)
        # 4 replicas: float32 weight, gradient, two moments, and of 32 tokens what two blocks keep of 4 widths and more
        assert row["group_bytes"] >= 4 * 4 * (4 * parameters + 32 * 2 * 40 * row["width"])
        # 6 FLOPs per weight and token, over 4 steps of 32 tokens; the embedding's rows are looked up
        matrices = parameters - 32 * row["width"]
        assert 0.9 * 6 * matrices <= row["run_flops"] / (4 * 32) <= 6 * parameters + 1e6
    assert answer.fits
    assert answer.needed_bytes == plan.needed_bytes < answer.available_bytes
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_has_no_time_and_nothing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate_file, "matrix_flops", lambda _: pytest.fail("a matrix product was timed"))
    monkeypatch.setattr(estimate_file, "time_widths", lambda *_, **__: pytest.fail("a step was timed"))
    answer = estimate(plan_sweep(tiny(n_layers=10**6), out=tmp_path))
    assert not answer.fits
    assert answer.seconds == math.inf
    assert answer.widths[0]["n_params"] > 10**9


def test_what_could_not_be_timed_is_called_a_guess(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate_file, "time_widths", lambda *_, **__: {})
    plan = replace(plan_sweep(tiny(), out=tmp_path, jobs=1), device="cuda:0", available_bytes=2**36)
    print_plan(plan, estimate(plan), as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "1 process at a time needs" in out
    assert "GiB of 64 GiB free on cuda:0" in out
    assert "s (a guess, as no step could be timed) on cuda:0; nothing was trained" in out
    plan = replace(plan, devices=("cuda:0", "cuda:1"), jobs=2)
    print_plan(plan, estimate(plan), as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "each of 2 GPUs needs" in out
    assert "on 2 GPUs, float32, chunk backend" in out


def test_time_counts_processes_evaluations_and_probes(tmp_path):
    plan = plan_sweep(tiny(widths=(16, 32, 64), lrs=(2.0**-8,), parametrizations=("sp",)), out=tmp_path, jobs=1)

    def seconds(plan, speed=1e9):
        return predict_seconds(plan, {}, nominal=1 / speed)

    alone = seconds(plan) - SWEEP_SECONDS
    shared, apart = (seconds(replace(plan, jobs=jobs)) - SWEEP_SECONDS for jobs in (2, 3))
    # never faster than the longest group nor than an equal share, never slower than one process
    assert alone / 3 <= apart < shared < alone
    assert seconds(replace(plan, groups=())) == 0
    evaluated = plan_sweep(tiny(widths=(16, 32, 64), eval_tokens=4096, eval_every=1), out=tmp_path, jobs=1)
    silent = plan_sweep(tiny(widths=(16, 32, 64), eval_tokens=0), out=tmp_path, jobs=1)
    assert seconds(evaluated) > 2 * seconds(silent)
    few, many = (plan_sweep(tiny_coord(record=r, steps=8), out=tmp_path, jobs=1) for r in ((0, 8), tuple(range(9))))
    assert seconds(many) > 1.3 * seconds(few)
    alone = seconds(replace(silent, groups=silent.groups[:1]), 1e30)
    assert alone == pytest.approx(SWEEP_SECONDS + GROUP_SECONDS)


def test_a_width_takes_what_it_was_timed_at_and_one_between_what_the_nearest_does(tmp_path):
    plan = plan_sweep(tiny(widths=(16, 32, 64)), out=tmp_path, jobs=1)
    alone = {
        width: replace(plan, groups=tuple(g for g in plan.groups if g[0].width == width)) for width in (16, 32, 64)
    }
    slow = {width: predict_seconds(part, {16: 4e-9, 64: 1e-9}, nominal=1.0) for width, part in alone.items()}
    fast = {width: predict_seconds(part, {}, nominal=1e-9) for width, part in alone.items()}
    start = SWEEP_SECONDS + GROUP_SECONDS
    assert [(slow[width] - start) / (fast[width] - start) for width in (16, 64)] == pytest.approx([4, 1])
    assert seconds_per_work({16: 4.0, 64: 1.0}, 48, otherwise=0.0) == 1
    assert seconds_per_work({}, 48, otherwise=7.0) == 7


@pytest.mark.parametrize(
    "sweep", [tiny(widths=(16, 64), steps=30, batch_size=8, seq_len=64), tiny_coord(widths=(16, 64))]
)
def test_steps_are_timed_in_few_replicas_and_the_widest_first(tmp_path, sweep):
    plan = plan_sweep(sweep, out=tmp_path, jobs=1)

    def work(run, replicas):
        return cost.group_work(run, replicas)

    known = time_widths(plan, work, speed=1e10, cap=30.0)
    assert list(known) == [64, 16]
    assert all(1e-12 < seconds < 1e-7 for seconds in known.values())
    # a machine that is expected to be a billion times slower has no time to try anything
    said: list[str] = []
    assert time_widths(plan, work, speed=1.0, cap=5.0, bad=said.append) == {}
    assert said == [f"width {width}: its steps are too long to time" for width in (64, 16)]
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_leaves_a_guess_and_why(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise RuntimeError("CUDA out of memory")
        yield

    monkeypatch.setattr("mupcheck.training.train.train", full)
    plan = plan_sweep(tiny(), out=tmp_path)
    answer = estimate(plan)
    assert answer.timed_widths == ()
    assert "width 16: CUDA out of memory" in answer.not_timed
    print_plan(plan, answer, as_json=False)
    assert f"(a guess, as no step could be timed: {answer.not_timed[0]})" in capsys.readouterr().out
    assert answer.seconds > SWEEP_SECONDS


class Bursts:
    """A device that hands rows over many at a time: the first wait for compilation, the second for capture."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr("mupcheck.training.train.train", self.train)
        monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
        monkeypatch.setattr("torch.cuda.device", lambda _: nullcontext())

    def train(self, runs, _corpus, device):
        assert device == "cuda:0"
        self.now += 20.0
        yield from [None] * 2
        self.now += 5.0
        yield from [None] * 62
        for _ in range(64, runs[0].steps, 32):
            self.now += 32 * 0.01
            yield from [None] * 32


def test_on_a_gpu_compilation_and_capture_are_left_out(tmp_path, monkeypatch):
    sweep = tiny(widths=(16,), steps=500, lrs=(2.0**-8,), parametrizations=("sp",))
    plan = replace(plan_sweep(sweep, out=tmp_path, jobs=1), device="cuda:0")
    Bursts(monkeypatch)
    known = time_widths(plan, lambda run, replicas: replicas * run.steps, speed=1e6)
    assert known == {16: pytest.approx(0.01)}


def test_of_a_costly_model_a_gpu_s_few_steps_are_enough(tmp_path, monkeypatch):
    """160 of its steps would take longer than there is, and those between three reads do not."""
    large = {"widths": (2048,), "n_layers": 4, "batch_size": 64, "seq_len": 512}
    sweep = tiny(steps=500, lrs=(2.0**-8,), parametrizations=("sp",), **large)
    plan = replace(plan_sweep(sweep, out=tmp_path, jobs=1), device="cuda:0")
    Bursts(monkeypatch)
    n_steps = timing._steps_to_see(plan.runs[0], len(plan.runs))
    assert 2 < n_steps < 160 == timing._steps_to_see(tiny().runs(**plan.source)[0], 1)
    known = time_widths(plan, lambda run, replicas: replicas * run.steps, speed=n_steps / 12)
    assert known == {2048: pytest.approx(0.01)}
    assert time_widths(plan, lambda run, replicas: replicas * run.steps, speed=(n_steps - 1) / 12) == {}


# --- as it goes -------------------------------------------------------------------------------------------------------


def test_progress_learns_what_each_width_takes(tmp_path):
    plan = plan_sweep(tiny(widths=(16, 64), seeds=2), out=tmp_path, jobs=1)  # a group of 8 runs at each width
    wide, narrow = plan.groups
    now = 0.0
    pace = Pace(plan, places=1, clock=lambda: now)
    ratio = group_cost(narrow) / group_cost(wide)
    now = 10.0
    pace.advance(wide, 1)  # of 4 steps, and its start
    assert pace.seconds_left is None  # perhaps more of them come at this moment
    now = 12.0
    pace.advance(wide, 1)
    assert pace.seconds_left == pytest.approx(10 * (2 + 4 * ratio))
    now = 14.0
    pace.finish(wide)
    # 3 steps in 4 seconds without the start
    assert pace.seconds_left == pytest.approx(4 / 3 * 4 * ratio)
    assert pace.now().runs_finished == 8
    now = 60.0
    pace.advance(narrow, 1)
    now = 100.0
    pace.advance(narrow, 1)  # it is much slower than its work says
    pace.advance(narrow, 1)  # at the same moment
    now = 180.0
    pace.advance(narrow, 0)
    assert pace.seconds_left == pytest.approx(20)
    pace.fail(narrow, again=True)
    assert pace.seconds_left == pytest.approx(80)
    assert pace.now().done == pytest.approx(group_cost(wide))
    pace.fail(narrow, again=False)
    assert pace.seconds_left == 0


def test_places_that_work_beside_each_other_halve_what_is_left(tmp_path):
    plan = plan_sweep(tiny(widths=(16, 64), seeds=2), out=tmp_path, jobs=2)
    plan = replace(plan, groups=tuple(half for g in plan.groups for half in (g[:4], g[4:])))
    now = 0.0
    pace = Pace(plan, places=2, clock=lambda: now)
    now = 5.0
    for group in plan.groups[:2]:
        pace.finish(group)
    ratio = group_cost(plan.groups[2]) / group_cost(plan.groups[0])
    assert pace.seconds_left == pytest.approx(5 * ratio)


def test_no_time_is_told_of_two_steps_and_a_compilation(tmp_path):
    """As seen on a GPU: two steps behind 40 seconds of compiling, then bursts of 64 behind the capture of a step."""
    sweep = tiny(widths=(16, 64), seeds=2, steps=500)
    plan = plan_sweep(sweep, out=tmp_path, jobs=1)
    wide, narrow = plan.groups
    now = 40.0
    pace = Pace(plan, places=1, clock=lambda: now)
    pace.idle_since = [0.0]
    pace.advance(wide, 2)
    now = 41.0
    pace.advance(wide, 1)  # a capture
    now = 42.0
    pace.advance(wide, 0)
    assert pace.seconds_left is None
    for _ in range(7):
        now += 6.4
        pace.advance(wide, 64)
    now += 6.4
    pace.finish(wide)  # the last 49
    now += 20.0
    pace.advance(narrow, 2)
    now += 1.0
    pace.advance(narrow, 1)
    now += 1.0
    pace.advance(narrow, 0)
    # the narrow one goes by the wide one's steps, a tenth of a second each, not by its own start
    ratio = group_cost(narrow) / group_cost(wide)
    assert pace.seconds_left == pytest.approx(0.1 * 500 * ratio, rel=0.1)
