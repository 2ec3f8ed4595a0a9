"""What the verdict on learning rates says first, and what to do: each beside a case that asks for something else."""

import numpy as np
import pandas as pd
import pytest
from planted_curves import LRS, diverge, judge, sweep

from mupcheck.learning_rates.line import Drift
from mupcheck.learning_rates.optimum import find_optima
from mupcheck.learning_rates.refine import next_round
from mupcheck.learning_rates.verdict import conclude, wider_lrs
from mupcheck.results.reading import Results, say_incomplete
from mupcheck.theory.parametrization import TABLES, rules_hash


def results(runs, *, asked=None, **spec):
    """Results of a sweep that asks for the runs of `asked` (default: those that are there)."""
    asked = runs if asked is None else asked
    of = {"widths": sorted(set(asked["width"])), "seeds": sorted(set(asked["seed"])), "lrs": (2.0**LRS).tolist()}
    return Results(runs, pd.DataFrame(), pd.DataFrame(), {"s": {"spec": of | spec, "run_ids": list(asked["run_id"])}})


def drift(slope, low, high, grid, *, rounding=0.0):
    return Drift(slope, low, high, -6.0, 0.9, 3, 3, grid, rounding)


@pytest.mark.parametrize(
    "there",
    ["width < 128", "seed == 0", "log2_lr < -6", "not (width == 128 and log2_lr == -3)"],
    ids=["a width", "seeds", "lrs", "an lr of a width"],
)
def test_missing_runs_are_the_only_reason_and_name_what_completes_them(there):
    whole = sweep(noise=0.01)
    part = whole.query(there)
    answer = judge(results(part, asked=whole))
    n = len(whole) - len(part)
    assert answer.reason == f"{n} of 72 runs of s are missing; to complete it: run the same command again"
    assert (answer.verdict, answer.next_step) == ("cannot tell", "run the same command again")
    assert (answer.missing_runs, answer.planned_runs, answer.missing) == (n, 72, answer.reason)
    assert not any(word in answer.reason for word in ("add", "edge", "seeds"))
    complete = judge(results(whole))
    assert (complete.verdict, complete.missing_runs, complete.missing) == ("transfers", 0, "")


def test_seeds_that_one_table_alone_is_to_have_are_missing_until_they_are_there():
    whole = sweep(noise=0.01)
    spec = {"seeds": [0], "seeds_of": {"p": sorted(set(whole["seed"]))}}
    part = whole[whole["seed"] < 2]
    assert judge(results(part, asked=whole, **spec)).reason.startswith(f"{len(whole) - len(part)} of 72 runs of s are")
    assert judge(results(whole, **spec)).verdict == "transfers"
    of_another = spec | {"seeds": [0, 1], "seeds_of": {"q": [0, 1, 2]}}
    assert judge(results(part, asked=whole, **of_another)).missing == ""


def test_a_table_that_is_whole_is_judged_while_another_lacks_runs():
    whole = pd.concat([sweep(noise=0.01), sweep(noise=0.01, parametrization="q", rules_hash="q")], ignore_index=True)
    whole["run_id"] = [f"run{i}" for i in range(len(whole))]
    part = whole.query("parametrization == 'p' or width < 128")
    (p,), (q,) = (judge_all(results(part, asked=whole), name) for name in "pq")
    assert (p.verdict, p.missing, p.missing_runs) == ("transfers", "", 24)
    assert (q.verdict, q.reason[:28]) == ("cannot tell", "24 of 144 runs of s are miss")


def judge_all(found, parametrization):
    from mupcheck.learning_rates.drift import transfer

    return [answer for answer in transfer(found) if answer.parametrization == parametrization]


def test_what_is_missing_is_said_with_the_command_where_it_is_known():
    whole = sweep()
    found = results(whole[1:], asked=whole)
    assert say_incomplete(found, "s", command="mupcheck run x.toml").endswith(
        "is missing; to complete it: mupcheck run x.toml"
    )
    assert say_incomplete(found, "s").startswith("1 of 72 runs of s is missing; ")
    assert say_incomplete(results(whole), "s") == say_incomplete(found, "unknown") == ""


def test_one_or_two_widths_and_one_seed_name_the_options_that_are_needed():
    one = judge(sweep(widths=(32,), seeds=1))
    assert one.next_step == "give --widths 32,64,128 (3 at least), --seeds 3 (3 at least)"
    assert "add widths, such as --widths 32,64,128" in one.reason
    assert "--widths 64,128,256 " in judge(sweep(widths=(64, 128))).next_step
    assert judge(sweep(noise=0.01)).next_step == ""


def test_the_next_step_is_a_finer_grid_where_the_grid_is_the_limit_and_seeds_where_they_are():
    edge = judge(sweep(centre=-9.9))
    assert edge.next_step.startswith("give --refine (follows the optimum beyond the lr grid)")
    ended = judge(results(sweep(x=np.arange(-16.0, -2), centre=-15.9), refine=True, precision=1.0))
    assert "--refine" not in ended.next_step
    assert "--lrs 2^-18:2^-1:2 (the refinement ended where the optimum is at the lowest lr" in ended.next_step
    assert wider_lrs(find_optima(sweep(x=np.arange(-10, -2, 0.5)))) == "wider --lrs"
    assert wider_lrs(find_optima(sweep(x=[-9.0, -7, -5]))) == "--lrs 2^-13:2^-1:4"
    # of lrs where no width trains one is enough, and below the grid others had lower ones
    cliff = diverge(sweep(), lambda runs: runs["log2_lr"] > -6)
    assert wider_lrs(find_optima(cliff)) == "--lrs 2^-12:2^-5:2"
    lower = cliff[(cliff["width"] == 32) | (cliff["log2_lr"] > -8.5)]
    assert wider_lrs(find_optima(lower)) == "--lrs 2^-12:2^-5:2"
    assert wider_lrs(find_optima(diverge(sweep(), slice(None)))) == "--lrs 2^-12:2^-10:2"
    # bracketed by a diverged lr, an octave away: the seeds agree
    cliff = diverge(sweep(centre=-5, noise=0.01), lambda runs: runs["log2_lr"] > -6)
    assert judge(cliff).next_step.startswith("give --refine: most of the interval is the spacing of the lrs")
    refined = conclude(
        find_optima(sweep()), drift(0.2, 0.0, 0.4, 0.19, rounding=0.19), 0.25, spec={"refine": True, "precision": 0.25}
    )
    assert refined.next_step.startswith("give --precision 0.125: most of the interval is the spacing of the lrs")
    noisy = conclude(find_optima(sweep()), drift(0.02, -0.36, 0.40, 0.07), 0.25)
    assert noisy.next_step == "give more seeds, about 9: most of the interval is their noise"
    assert "flat" in judge(sweep(bend=0.001)).optima[0].flags and "--steps 120" in judge(sweep(bend=0.001)).next_step


def refining(runs, **spec):
    return judge(results(runs, **{"refine": True, "precision": 1.0} | spec))


@pytest.mark.parametrize("seed", [38, 75, 88])
def test_a_search_has_ended_whatever_confidence_a_verdict_is_asked_for(seed):
    """The sweep, which asks with its own, would train nothing more; at 0.99 an edge is within the seeds' noise."""
    runs = sweep(noise=0.3, centre=-7.5, seeds=2, widths=(32,))
    runs["val_loss"] += 0.1 * np.random.default_rng(seed).normal(size=len(runs))
    assert [search.log2_lrs for search in next_round(runs, lrs=2.0**LRS, precision=1.0)] == [()]
    strict = judge(results(runs, refine=True, precision=1.0), confidence=0.99)
    assert "within noise" in strict.optima[0].flags and "within noise" not in judge(runs).optima[0].flags
    assert "not finished" not in strict.next_step + "".join(strict.notes)


def test_what_goes_on_with_a_search_is_the_next_step_until_it_has_ended():
    """Options of lrs and noise may not be needed then; those that no search makes unnecessary are still asked for."""
    again = "run the same command again: the search for the best lr of width 32, 64, 128 was not finished"
    edge = {"x": LRS, "centre": -9.9}
    far = {"x": np.arange(-16.0, -2), "centre": -15.9}  # six octaves beyond the grid
    noisy = sweep(noise=0.5)
    for runs, ended, precision in (
        (sweep(**edge), sweep(**far), 1.0),
        (noisy, noisy, 0.25),  # an interval across the tolerance: the grid is bracketed to an octave, not to a quarter
    ):
        answer = refining(runs, precision=precision)
        assert (answer.verdict, answer.next_step, answer.what_next) == ("cannot tell", again, again)
        over = refining(ended)
        assert over.verdict == "cannot tell"
        assert over.next_step.startswith("give ")
    one = sweep(widths=(32,), seeds=1, **edge)
    assert refining(one).next_step == "give --widths 32,64,128 (3 at least), --seeds 3 (3 at least)"
    assert refining(decayed(**edge)).next_step == "give --decay-mode independent (or --weight-decay 0)"
    assert "let the seed reach" in refining(sweep(noise=0.0, **edge)).next_step
    assert refining(sweep(noise=0.01), precision=0.25).next_step == ""


def test_an_open_cost_waits_for_the_search_too():
    x = np.arange(-10.0, -5)
    runs = sweep(0.1, noise=0.05, x=x, centre=-6.4)
    searched = refining(runs, lrs=(2.0**x).tolist())
    assert searched.cost.verdict == judge(runs).cost.verdict == "cannot tell"
    assert searched.cost.next_step.startswith("run the same command again: the search")
    assert judge(runs).cost.next_step == "give --refine, or wider --lrs"
    known = sweep(noise=0.01)
    assert refining(known, precision=0.25).cost == judge(known).cost


def test_a_drift_close_to_the_tolerance_asks_for_widths_and_a_drift_for_the_check_that_explains_it():
    optima = find_optima(sweep())
    near = conclude(optima, drift(0.24, -0.1, 0.58, 0.07), 0.25)
    assert near.next_step.startswith("give widths over a wider range, such as --widths 32,64,128,256: ")
    drifts = judge(sweep(-1.0, parametrization="sp"))
    assert drifts.verdict == "drifts"
    assert drifts.next_step.endswith("mupcheck coord -p sp --opt adamw --mode head-dim --widths 32,64,128")
    assert "-p TABLE.toml" in judge(sweep(-1.0)).next_step


def decayed(table="gdn-mup", **changes):
    """Runs of a shipped table with weight decay."""
    optimizer = changes.get("optimizer", "adamw")
    followed = rules_hash(TABLES[table], optimizer=optimizer, mode="head-dim")
    return sweep(noise=0.01, parametrization=table, rules_hash=followed, **({"weight_decay": 0.1} | changes))


def test_coupled_weight_decay_that_changes_with_width_leaves_the_verdict_open():
    answer = judge(decayed())
    assert answer.verdict == "cannot tell"
    assert answer.reason.startswith("coupled weight decay changes with width as lr does: lr x decay of hidden, gate")
    assert "is up to 4 times smaller at width 128 than at 32" in answer.reason
    assert answer.next_step == "give --decay-mode independent (or --weight-decay 0)"
    # what does not change with width says nothing: another mode, no decay, one lr at every width, an unknown table
    for other in (decayed(decay_mode="independent"), decayed(weight_decay=0.0), decayed("sp"), sweep(weight_decay=0.1)):
        assert judge(other.assign(val_loss=decayed()["val_loss"])).verdict == "transfers"


def test_seeds_that_are_copies_show_no_noise():
    runs = sweep(noise=0.0)
    answer = judge(runs)
    assert answer.verdict == "cannot tell"
    assert [optimum.flags for optimum in answer.optima] == [("copied seeds",)] * 3
    assert "let the seed reach" in answer.next_step
    # half a grid step to either side is what is known of it
    optimum = answer.optima[0]
    assert [optimum.ci_low, optimum.ci_high] == pytest.approx([optimum.log2_lr - 0.5, optimum.log2_lr + 0.5])
    assert judge(runs.assign(val_loss=runs["val_loss"] + 1e-6 * runs["seed"])).optima[0].flags == ()


def test_no_interval_is_narrower_than_the_grid_allows_and_none_ends_at_an_edge():
    """Seeds that agree say nothing of a parabola's bias on a lopsided curve, which is 0.1 octave an octave apart."""
    runs = sweep(noise=0.0)
    agreeing = judge(runs.assign(val_loss=runs["val_loss"] + 0.1 * runs["seed"]))
    assert agreeing.optima[0].flags == ()
    for optimum in agreeing.optima:
        assert optimum.ci_high - optimum.ci_low == pytest.approx(0.2)
    assert agreeing.drift.ci_high - agreeing.drift.ci_low == pytest.approx(2 * agreeing.drift.ci_grid) != 0
    cost = {(each.source, each.target): each for each in agreeing.penalty}[32, 128]
    assert cost.ci_high > cost.nats
    noisy = judge(sweep(noise=0.3)).optima[0]  # a wide one is as it was
    assert noisy.ci_high - noisy.ci_low > 0.4
    low, high = (judge(sweep(centre=centre)).optima[0] for centre in (-9.9, -3.1))
    assert (low.flags[0], low.ci_low, high.flags[0], high.ci_high) == ("low edge", None, "high edge", None)
    assert low.ci_high > low.log2_lr and high.ci_low < high.log2_lr


def test_a_lopsided_curve_without_noise_keeps_its_truth_in_the_interval():
    misses = 0
    for truth in np.arange(-6.5, -5.5, 0.1):
        runs = sweep(noise=0.0, centre=truth, widths=(32,))
        ahead = runs["log2_lr"] - truth
        loss = 2.5 + 0.16 * (np.exp(0.7 * ahead) - 0.7 * ahead - 1) + 0.1 * runs["seed"]
        (optimum,) = find_optima(runs.assign(val_loss=loss))
        misses += not optimum.ci_low - 0.02 <= truth <= optimum.ci_high + 0.02
    assert misses == 0


def test_how_it_was_measured_is_in_the_record_and_one_line():
    more = sweep(x=[-6.5, -6.25], noise=0.01, widths=(64,), base_width=32)
    runs = pd.concat([sweep(noise=0.01), more.assign(run_id=[f"more{i}" for i in range(len(more))])], ignore_index=True)
    answer = judge(results(runs, refine=True, precision=0.25))
    of = answer.measured
    assert (of["widths"], of["seeds"], of["steps"], of["base_width"]) == ((32, 64, 128), (0, 1, 2), 60, 32)
    assert (of["data"], of["confidence"], of["lrs"], of["added_lrs"]) == ("synthetic", 0.9, tuple(2.0**LRS), 2)
    assert (of["clip"], of["device"]) == (None, ("cpu",))
    assert answer.how_measured == (
        "learning-rate sweep s: adamw, head-dim, widths 32, 64, 128 (base 32), 3 seeds, 60 steps, data synthetic, "
        "8 lrs from 2^-10 to 2^-3 and 2 of a refinement, float32 on cpu, val_loss, 90% intervals"
    )


def test_a_drift_at_the_edge_of_a_grid_has_no_number_and_a_doubtful_one_says_why():
    assert judge(sweep(noise=0.01)).drift_text.startswith("drift +0.00 [")
    edge = judge(sweep(-1.0, centre=-8.2))
    assert edge.drift.slope is not None
    assert edge.verdict == "drifts" and edge.drift.ci_low is None
    said = f"drift at most {edge.drift.ci_high:+.2f} octaves per doubling of width, as the optimum of width 128 is at"
    assert edge.drift_text == f"{said} the edge of the lr grid"
    both = judge(sweep(-3.0, centre=-3.1, x=np.arange(-8.0, -2)))
    assert (
        both.drift_text.startswith("drift: not known, as the optimum of width 32, 128 is at the edge")
        or both.drift.ci_high < 0
    )
    assert "in doubt: near edge at 32" in judge(sweep(centre=-9.0, noise=0.6)).drift_text
    assert judge(sweep(widths=(32,))).drift_text == ""
    assert judge(sweep(widths=(32, 64))).drift_text.endswith("through 2 widths only")
    assert "no interval" in judge(sweep(seeds=1)).drift_text


def test_a_width_that_is_a_copy_of_another_decides_nothing():
    runs = sweep(noise=0.02)
    assert judge(runs).verdict == "transfers"
    of = {width: runs[runs["width"] == width].sort_values(["seed", "log2_lr"]) for width in (32, 64)}
    losses = ["train_loss", "val_loss"]
    runs.loc[of[64].index, losses] = of[32][losses].to_numpy()
    answer = judge(runs)
    assert answer.verdict == answer.cost.verdict == "cannot tell"
    assert [("copied width" in optimum.flags) for optimum in answer.optima] == [True, True, False]
    assert answer.reason.startswith("width 32, 64: another width gave the same losses")
    assert "reach the model" in answer.next_step


def test_the_sentence_on_top_says_what_the_verdict_rests_on():
    still = judge(sweep(noise=0.02, seeds=5)).sentence
    assert "drift +0.0" in still and "per doubling: transfers" in still
    # the middle width's optimum an octave off: the slope is 0, the widths beside each other drift
    runs, off = sweep(noise=0.02, seeds=5), sweep(noise=0.02, seeds=5, centre=-7.2)
    moved = judge(runs.assign(val_loss=runs["val_loss"].mask(runs["width"] == 64, off["val_loss"])))
    assert moved.verdict == "drifts" and abs(moved.drift.slope) < 0.1
    assert " from width 32 to 64: drifts" in moved.sentence or " from width 64 to 128: drifts" in moved.sentence
    edge = judge(sweep(-0.6, centre=-8.5, seeds=5))
    assert "low edge" in edge.optima[-1].flags and "drift at most -" in edge.sentence
