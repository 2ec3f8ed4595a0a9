"""The page of a learning-rate sweep: what stands before, in, between and after its tables."""

import re

import numpy as np
import pandas as pd
from planted_curves import judge, sweep

from mupcheck.results.reading import Results
from mupcheck.terminal.transfer_page import print_in_short, print_transfer


def page(capsys, runs, **options):
    print_transfer(judge(runs, **options))
    return capsys.readouterr().out


def test_the_title_comes_before_any_number(capsys):
    first, *_ = page(capsys, sweep(noise=0.01)).splitlines()
    for word in (
        "p, learning-rate sweep s: adamw, head-dim",
        "widths 32, 64, 128 (base 32)",
        "3 seeds",
        "60 steps",
        "data synthetic",
    ):
        assert word in first
    assert "8 lrs from 2^-10 to 2^-3" in first and "val_loss, 90% intervals" in first
    assert "80% interval" in page(capsys, sweep(noise=0.01), confidence=0.8)


def test_a_loss_below_all_that_was_measured_is_called_fitted(capsys):
    runs = sweep(noise=0.01, centre=-6.5)
    answer = judge(runs)
    measured = runs.query("width == 32").groupby("log2_lr")["val_loss"].mean().min()
    assert answer.optima[0].loss < measured - 0.01
    text = page(capsys, runs)
    row = next(line for line in text.splitlines() if line.startswith(" 32 "))
    assert re.search(rf"{answer.optima[0].loss:.4f} +{measured:.4f} at 2\^-[67] ", row)
    assert re.search(r"fitted loss +lowest measured", text)


def test_costs_at_the_edge_of_a_grid_are_unknown_even_at_their_own_width(capsys):
    text = page(capsys, sweep(-1.0, centre=-8.2))
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines() if re.match(r" width \d", line)]
    assert [row[-1] for row in rows] == ["?", "?", "?"]
    assert rows[0][1] == rows[1][2] == "0"
    assert rows[2][1:] == ["?", "?", "?"]
    assert text.count("?: the optimum of width 128 is at the edge of its lr grid") == 1
    assert re.search(r"drift at most -0\.\d\d octaves per doubling of width, outside", text)
    assert not re.search(r"drift [+-]\d", text)


def test_one_width_has_no_rows_of_nonsense(capsys):
    text = page(capsys, sweep(widths=(32,)))
    assert not any(word in text for word in ("nats lost", "drift ", "fast transfer", "wider", "divergence"))
    assert text.count("next: give --widths 32,64,128") == 1
    assert "width 32 (base 32)" in text
    assert "nats lost" in page(capsys, sweep(widths=(32, 64)))


def test_counts_say_of_what_they_are(capsys):
    runs = sweep(noise=0.01)
    rng = np.random.default_rng(0)
    steps = pd.DataFrame(
        {"run_id": run, "step": np.arange(21), "loss": 4 - np.log2(width) / 10 + 0.001 * rng.normal(size=21)}
        for run, width in zip(runs["run_id"], runs["width"], strict=True)
    ).explode(["step", "loss"])
    found = Results(runs, steps, pd.DataFrame(), {})
    line = next(line for line in page(capsys, found).splitlines() if "wider is better" in line)
    assert "16 comparisons at one lr each, of 2 pairs of widths, in 10 tenths of training" in line
    assert "160 of 160 tenths of training" in line
    few = Results(runs, steps[steps["step"] < 4], pd.DataFrame(), {})
    assert "of 48 parts of training" in page(capsys, few)


def test_next_stands_once_under_the_reason(capsys):
    lines = page(capsys, sweep(noise=0.6)).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("  next: ")]
    assert lines[at - 1].endswith("an interval across +-0.25")
    assert not any(line.startswith("  next: ") for line in page(capsys, sweep(noise=0.01)).splitlines())


def test_the_verdict_on_the_cost_stands_under_the_drifts(capsys):
    lines = page(capsys, sweep(noise=0.01, bend=0.05)).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("  cost: ")]
    assert lines[at].startswith("  cost: negligible as the best lr of width 32 costs 0.")
    assert lines[at].endswith("at width 128, within 1% of the loss")
    assert "octaves per doubling" in lines[at - 1]
    costly = page(capsys, sweep(-1.0, noise=0.01))
    assert "  cost: costly as the best lr of width 32 costs " in costly and ", above 1% of the loss" in costly
    open_one = page(capsys, sweep(-0.25, noise=0.15))
    assert re.search(r"  cost: cannot tell as .*, across 1% of the loss; give ", open_one)
    assert "  cost: " not in page(capsys, sweep(widths=(32,)))


def test_a_target_has_a_line_and_both_verdicts_stand_on_top(capsys):
    answer = judge(sweep(noise=0.01), target=512)
    print_transfer(answer)
    out = capsys.readouterr().out
    assert f"  best lr predicted at width 512: {answer.target.lr:.3g} [" in out
    print_in_short([answer, judge(sweep(-1.0))])
    first, second, blank = capsys.readouterr().out.splitlines()
    assert first == answer.sentence and "costly; drift" in second and blank == ""
