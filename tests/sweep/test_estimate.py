"""What a plan would cost."""

import math
from dataclasses import replace

import pytest
from tiny_sweeps import tiny, tiny_coord

from mupcheck.model.build import build_model
from mupcheck.sweep import estimate as estimate_file
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.estimate import GROUP_SECONDS, SWEEP_SECONDS, estimate, predict_seconds
from mupcheck.sweep.plan import plan_sweep
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


def test_what_does_not_fit_has_no_time_and_no_matrix_product_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate_file, "matrix_flops", lambda _: pytest.fail("a matrix product was timed"))
    answer = estimate(plan_sweep(tiny(n_layers=10**6), out=tmp_path))
    assert not answer.fits
    assert answer.seconds == math.inf
    assert answer.widths[0]["n_params"] > 10**9


def test_on_a_gpu_the_time_is_called_a_guess(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimate_file, "matrix_flops", lambda _: 5e13)
    plan = replace(plan_sweep(tiny(), out=tmp_path, jobs=1), device="cuda:0", available_bytes=2**36)
    print_plan(plan, estimate(plan), as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    assert "1 process at a time needs" in out
    assert "GiB of 64 GiB free on cuda:0" in out
    assert "s (a rough guess) on cuda:0; nothing was trained" in out


def test_time_counts_processes_evaluations_and_probes(tmp_path):
    plan = plan_sweep(tiny(widths=(16, 32, 64), lrs=(2.0**-8,), parametrizations=("sp",)), out=tmp_path, jobs=1)
    speed = 1e9
    alone = predict_seconds(plan, speed) - SWEEP_SECONDS
    shared, apart = (predict_seconds(replace(plan, jobs=jobs), speed) - SWEEP_SECONDS for jobs in (2, 3))
    # never faster than the longest group nor than an equal share, never slower than one process
    assert alone / 3 <= apart < shared < alone
    assert predict_seconds(replace(plan, groups=()), speed) == 0
    evaluated = plan_sweep(tiny(widths=(16, 32, 64), eval_tokens=4096, eval_every=1), out=tmp_path, jobs=1)
    silent = plan_sweep(tiny(widths=(16, 32, 64), eval_tokens=0), out=tmp_path, jobs=1)
    assert predict_seconds(evaluated, speed) > 2 * predict_seconds(silent, speed)
    few, many = (plan_sweep(tiny_coord(record=r, steps=8), out=tmp_path, jobs=1) for r in ((0, 8), tuple(range(9))))
    assert predict_seconds(many, speed) > 1.3 * predict_seconds(few, speed)
    assert predict_seconds(replace(silent, groups=silent.groups[:1]), 1e30) == pytest.approx(
        SWEEP_SECONDS + GROUP_SECONDS
    )
