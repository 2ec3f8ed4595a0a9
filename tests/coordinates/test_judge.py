"""The whole verdict on planted coordinate sizes."""

import numpy as np
import pandas as pd
import pytest
from planted_slopes import EFFECTIVE, FREE, RESIDUAL, judge_one, make_coords, make_runs, results

from mupcheck.coordinates.judge import judge
from mupcheck.coordinates.seeds import seeds_needed
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.results.comparable import find_rules
from mupcheck.theory.parametrization import TABLES, rules_hash, table_to_json
from mupcheck.theory.rules_file import parse_table

O_PROJ = ("effective_update", "rms", "o_proj", 1, 1)


def test_a_group_fails_if_one_slope_does_and_the_worst_is_named_first():
    found = judge_one({RESIDUAL: 0.0, EFFECTIVE: -0.5, O_PROJ: 1.0, FREE: 4.0})
    assert found.verdict == "fail"
    assert found.counts == {"pass": 1, "fail": 2, "cannot tell": 0, "info": 1}
    assert found.worst[0].startswith("effective_update rms of o_proj, later steps: slope +1.00 [")
    assert any(line.startswith("effective_update rms of q_proj") for line in found.worst)
    assert found.reason == found.worst[0]


def test_one_layer_among_many_fails_the_group():
    sites = {("effective_update", "rms", "q_proj", layer, 1): 0.0 for layer in range(9)}
    assert judge_one(sites).verdict == "pass"
    found = judge_one(sites | {("effective_update", "rms", "q_proj", 4, 1): -1.0})  # -0.11 over all layers
    assert (found.verdict, found.counts["fail"]) == ("fail", 0)
    assert found.worst[0].startswith("effective_update rms of q_proj, layer 4, step 1: slope -1.00")


def test_the_worst_of_many_noisy_slopes_does_not_fail_the_group():
    sites = {("effective_update", "rms", "q_proj", layer, 1): 0.0 for layer in range(200)}
    runs = make_runs(seeds=(0, 1))
    alone = together = 0
    for seed in range(20):
        coords = make_coords(runs, sites, noise=1.0, seed=seed)
        slopes = fit_slopes(runs, coords)
        alone += ((slopes["ci_low"] > 0.25) | (slopes["ci_high"] < -0.25)).any()
        together += judge(results(runs, coords))[0].verdict == "fail"
    # two seeds now and then agree on a wrong slope; for one of 200 to fail all the same is a chance of at most 6%
    assert alone == 20
    assert together <= 3


def test_what_no_layer_can_tell_alone_all_can_together():
    sites = {("effective_update", "rms", "q_proj", layer, 1): 0.0 for layer in range(64)}
    found = judge_one(sites, noise=0.5)
    assert (found.slopes["verdict"] == "cannot tell").any()
    assert found.verdict == "pass"
    few = judge_one({key: slope for key, slope in sites.items() if key[3] < 2}, noise=0.5)
    assert few.verdict == "cannot tell"
    assert "seeds" in few.next_step


def test_no_update_recorded_is_no_pass():
    found = judge_one({RESIDUAL: 0.0})
    assert found.verdict == "cannot tell"
    assert "no effective update was recorded" in found.reason
    assert judge_one({FREE: 1.0}).verdict == "cannot tell"


def test_a_passing_group_says_so_in_one_line():
    found = judge_one({RESIDUAL: 0.0, EFFECTIVE: 0.0, FREE: 1.0})
    assert (found.verdict, found.next_step, found.worst, found.causes) == ("pass", "", (), ())
    assert found.reason == "all 2 judged slopes are as required"
    assert found.measured["widths"] == (64, 128, 256, 512)
    assert found.title == "gdn-mup (adamw, head-dim)"


def test_missing_and_diverged_runs_stand_against_a_pass_and_not_against_a_fail():
    good, bad = {EFFECTIVE: 0.0}, {EFFECTIVE: 1.0}
    runs = make_runs()
    asked = {"s": {"run_ids": [*runs["run_id"], "another"]}}
    for slope_of, verdict in ((good, "cannot tell"), (bad, "fail")):
        (found,) = judge(results(runs, make_coords(runs, slope_of), **asked))
        assert found.verdict == verdict
        assert found.findings[0].name == "missing runs"
    runs.loc[3, "status"] = "diverged"
    (found,) = judge(results(runs, make_coords(runs, good)))
    assert found.verdict == "cannot tell"
    assert "1 of 16 runs diverged" in found.reason
    assert found.next_step == "try a smaller lr"


def with_diagnostic(runs, slope_of, site, stat, value):
    rows = make_coords(runs, {("diagnostic", stat, site, 0, 1): 0.0}).assign(value=value)
    return pd.concat([make_coords(runs, slope_of), rows])


def test_a_slope_in_doubt_neither_passes_nor_fails():
    runs = make_runs()
    other = ("effective_update", "rms", "v_proj", 0, 1)
    for slope, verdict in ((0.0, "cannot tell"), (1.0, "cannot tell")):
        coords = with_diagnostic(runs, {EFFECTIVE: slope, other: 0.0}, "q_proj", "relative_update", 0.9)
        (found,) = judge(results(runs, coords))
        assert found.verdict == verdict
        assert "saturated" in found.reason
        verdicts = found.pooled.set_index("site")["verdict"].to_dict()
        assert verdicts == {"q_proj": "cannot tell", "v_proj": "pass"}
    # what is wrong elsewhere still fails
    coords = with_diagnostic(runs, {EFFECTIVE: 0.0, other: 1.0}, "q_proj", "relative_update", 0.9)
    assert judge(results(runs, coords))[0].verdict == "fail"


def test_what_the_table_does_not_imply_is_no_pass_though_all_that_is_required_holds():
    free = ("weight_grad", "rms", "q_proj", 0, 0)  # not required, implied -3/2 to -1
    runs = make_runs(rules_hash=rules_hash(TABLES["gdn-mup"], optimizer="adamw", mode="head-dim"))
    assert judge_one({EFFECTIVE: 0.0, free: -1.0}, runs=runs).verdict == "pass"
    found = judge_one({EFFECTIVE: 0.0, free: 1.0}, runs=runs)
    assert found.verdict == "cannot tell"
    assert "not as the table implies" in found.reason
    assert "weight_grad rms of q_proj: +1.00" in found.reason


def test_a_parameter_that_does_not_follow_its_table_is_named():
    runs = make_runs(optimizer="sgd", rules_hash=rules_hash(TABLES["gdn-mup"], optimizer="sgd", mode="head-dim"))
    step, gradient = ("weight_update", "rms", "A_log", 0, 1), ("weight_grad", "rms", "A_log", 0, 0)
    right = {EFFECTIVE: 0.0, step: 0.0, gradient: -0.5}  # lr exponent +1/2
    assert not [f for f in judge_one(right, runs=runs).findings if f.name == "not followed"]
    # within what is required, and within what is implied: only the two together tell
    found = judge_one(right | {gradient: 0.0}, runs=runs)
    assert [f.text for f in found.findings if f.name == "not followed"] == [
        "A_log follows lr exponent +0.00, where the table has +1/2"
    ]
    assert found.verdict == "cannot tell"


def test_the_rules_are_those_of_the_sweep():
    mine = parse_table({"name": "mine", "base": "sp"}, "test")
    runs = make_runs(parametrization="mine", rules_hash=rules_hash(mine, optimizer="adamw", mode="head-dim"))
    assert find_rules(runs, {}) is None
    assert find_rules(runs, {"mine": table_to_json(mine)}).name == "mine"
    assert find_rules(runs.assign(rules_hash="other"), {"mine": table_to_json(mine)}) is None
    shipped = make_runs(rules_hash=rules_hash(TABLES["gdn-mup"], optimizer="adamw", mode="head-dim"))
    assert find_rules(shipped, {}) == TABLES["gdn-mup"]
    assert find_rules(make_runs(), {}) is None  # the shipped table of today is not what these followed
    with pytest.raises(ValueError, match=r"'mine' in sweep\.json are damaged"):
        find_rules(runs, {"mine": {"rules": {}}})


def test_the_seeds_that_are_said_to_decide_do():
    runs = make_runs(seeds=range(6))
    coords = make_coords(runs, {EFFECTIVE: 0.0}, noise=0.6, seed=3)
    table = fit_slopes(runs, coords)
    assert table["verdict"].item() == "cannot tell"
    needed = seeds_needed(table)
    assert 6 < needed < 64
    decided = 0
    for seed in range(20):
        more = make_runs(seeds=range(int(needed)))
        decided += (
            fit_slopes(more, make_coords(more, {EFFECTIVE: 0.0}, noise=0.6, seed=seed))["verdict"].item() == "pass"
        )
    assert decided >= 12
    edge = table.assign(slope=0.25)
    assert seeds_needed(edge) == np.inf


@pytest.mark.parametrize(
    ("widths", "said", "advice"),
    [
        ((64,), "1 width (64), where a slope needs at least 3", "--widths 64,128,256"),
        ((64, 128), "2 widths (64, 128), where a slope needs at least 3", "--widths 64,128,256"),
    ],
)
def test_too_few_widths_are_told_with_those_to_give(widths, said, advice):
    found = judge_one({RESIDUAL: 0.0, EFFECTIVE: 0.0}, runs=make_runs(widths=widths))
    assert (found.verdict, found.reason) == ("cannot tell", said)
    assert advice in found.next_step


def test_an_interrupted_check_says_first_how_many_runs_are_missing():
    runs = make_runs(seeds=(0, 1))
    coords = make_coords(runs, {EFFECTIVE: 0.0}, noise=2.0)
    planned = [*runs["run_id"], "a", "b", "c", "d"]
    (found,) = judge(results(runs, coords, s={"run_ids": planned}))
    assert (found.verdict, found.reason) == ("cannot tell", "4 of 12 runs of s are missing")
    assert found.next_step == "run the same command again"


def test_a_judgement_says_how_it_was_measured_and_what_it_counts():
    found = judge_one({RESIDUAL: 0.0, EFFECTIVE: 0.0, FREE: 4.0})
    for part in ("check s: adamw, head-dim, widths 64, 128, 256, 512", "4 seeds (0 to 3)", "steps 1, lr 0.01,"):
        assert part in found.how_measured
    assert "data synthetic, batch 1 x 1 tokens; 90% intervals" in found.how_measured
    assert found.how_measured.endswith("slopes pooled over layers and later steps")
    (less,) = judge(results(make_runs(), make_coords(make_runs(), {RESIDUAL: 0.0}, noise=0.01)), confidence=0.8)
    assert "; 80% intervals" in less.how_measured
    assert found.counted == "2 judged of 3 pooled slopes: 2 pass, 0 fail, 0 cannot tell"
