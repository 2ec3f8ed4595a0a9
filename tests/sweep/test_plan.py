"""Groups and estimates."""

from collections import Counter

import pytest
from tiny_sweeps import tiny

from mupcheck.model.build import build_model
from mupcheck.sweep.plan import CPU_REPLICAS, estimate, group_runs, plan_sweep

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
