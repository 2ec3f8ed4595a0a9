"""The page of a coordinate check: the verdict first, rows that are the analysis's, nothing wider than the terminal."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from planted_slopes import BAND, EFFECTIVE, FREE, LOGITS, RESIDUAL, judge_one, make_coords, make_runs, results
from screens import seen

from mupcheck.coordinates.by_width import pool, sizes_by_width
from mupcheck.coordinates.diagnosis import Cause
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.judge import judge
from mupcheck.terminal.bars import size_bars, step_of_sizes
from mupcheck.terminal.console import MAX_LINES, interval_text
from mupcheck.terminal.judgement_page import print_judgement

SITES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj", "readout", "embedding", "a_proj")
RIGHT = {("effective_update", "rms", site, 0, 1): 0.01 * i for i, site in enumerate(SITES)}
WRONG = RIGHT | {EFFECTIVE: 1.0, RESIDUAL: -0.6, BAND: 0.9, LOGITS: 2.0}
PLANTED = {"right": RIGHT, "wrong": WRONG, "not judged": {FREE: 1.0}}


@cache
def judged(which):
    return judge_one(PLANTED[which])


def page(judgement, *, every=False, columns=None, encoding=None):
    return seen(lambda: print_judgement(judgement, every=every), columns=columns, encoding=encoding)


def rows_of(text):
    """Cells of each row, with the line that stands above it."""
    found, above = [], ""
    for line in text.splitlines():
        if " required " in line or line.endswith("not judged"):
            above = line.strip()
        elif match := re.match(r" (\S+) +([+-]\d\.\d\d) +(\[.*?\]) +(pass|fail|cannot tell|info) *(.*)$", line):
            found.append((above, *match.groups()))
    return found


@pytest.mark.parametrize("slopes", ["right", "wrong"])
def test_the_verdict_comes_first_and_every_row_is_a_slope_of_the_analysis(slopes):
    judgement = judged(slopes)
    text = page(judgement)
    first = text.splitlines()[0]
    assert first == f"gdn-mup (adamw, head-dim): {judgement.verdict}  {judgement.counted}"
    rows = rows_of(text)
    wanted = judgement.pooled[judgement.pooled["verdict"] == judgement.verdict]
    assert len(rows) == min(len(wanted), MAX_LINES) > 0
    sizes = sizes_by_width(make_runs(), pool(make_coords(make_runs(), PLANTED[slopes], noise=0.01)))
    shown = []
    for above, site, slope, interval, verdict, bars in rows:
        kind, stat = above.partition(",")[0].split()
        later = "later steps" in above
        (row,) = wanted[
            (wanted[["kind", "stat", "site"]] == [kind, stat, site]).all(axis=1) & (wanted["step"].gt(0) == later)
        ].to_dict("records")
        assert slope == f"{row['slope']:+.2f}" and verdict == row["verdict"]
        assert interval == interval_text(row["ci_low"], row["ci_high"])
        assert above.endswith(f"±{row['tolerance']:g}")
        shown.append((bars, sizes[kind, stat, site, later]))
    step = step_of_sizes(each for _, each in shown)
    assert [bars for bars, _ in shown] == [size_bars(each, step=step) for _, each in shown]
    assert f"size by width: from 64 to 512, a step for {step:.2g} octaves" in text
    assert ("why: " in text) == ("next: " in text) == (judgement.verdict != "pass")


def test_sizes_are_means_over_seeds_layers_and_later_steps_at_each_width():
    runs = make_runs(seeds=(0, 1))
    at = [("activation", "rms", "residual", layer, step) for layer in (0, 1) for step in (1, 2)]
    coords = make_coords(runs, dict.fromkeys(at, 0.5) | {("activation", "rms", "residual", 0, 0): -1.0}, noise=0.3)
    sizes = sizes_by_width(runs, pool(coords))
    whole = coords.merge(runs[["run_id", "width"]], on="run_id")
    for later in (False, True):
        by_hand = (
            whole[whole["step"].gt(0) == later].groupby("width")["value"].apply(lambda v: np.exp(np.log(v).mean()))
        )
        assert sizes["activation", "rms", "residual", later] == pytest.approx(by_hand.tolist())
    coords.loc[coords["run_id"] == runs["run_id"].iloc[0], "value"] = 0.0
    assert np.isnan(sizes_by_width(runs, pool(coords))["activation", "rms", "residual", True]).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("slopes", PLANTED)
@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(slopes, columns, encoding):
    judgement = judged(slopes)
    text = page(judgement, columns=columns, encoding=encoding)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text and text.isascii() == (encoding == "ascii")
    # what a pipe gets, in as many words
    piped = page(judgement, encoding=encoding)
    assert [row[1:] for row in rows_of(text)] == [row[1:] for row in rows_of(piped)]
    assert all(word in text.split() for word in piped.split() if re.search(r"\w", word))


def test_a_narrow_terminal_loses_no_number():
    judgement = judged("wrong")
    flat = " ".join(page(judgement, columns=40).split())
    for _, site, slope, interval, verdict, _ in rows_of(page(judgement)):
        assert f"{site}: slope {slope}, 90% interval {interval}, verdict {verdict}" in flat


def test_what_is_left_out_is_counted_and_there_on_all():
    many = {("effective_update", "rms", f"{site}{i}", 0, 1): 1.0 for site in ("q_proj",) for i in range(13)}
    runs = make_runs(parametrization="mine", mode="own")
    (judgement,) = judge(results(runs, make_coords(runs, many, noise=0.01)))
    assert judgement.counts["fail"] == 13
    text = page(judgement)
    assert len(rows_of(text)) == MAX_LINES and " ... and 3 more that do not pass\n" in text
    whole = page(judgement, every=True)
    assert all(re.search(rf"^ effective_update rms +q_proj{i} ", whole, re.MULTILINE) for i in range(13))
    assert "implied" in whole and "implied" not in text and judgement.how_measured in whole
    # both means of one size are one row, and two on --all
    twice = judge_one(RIGHT | {RESIDUAL: 1.0, ("activation", "mean_abs", "residual", 0, 1): 1.0})
    assert [row[1] for row in rows_of(page(twice))] == ["residual"]
    assert " ... and 1 more that do not pass\n" in page(twice)
    assert len(re.findall(r"activation \w+ +residual .* fail", page(twice, every=True))) == 2


def test_causes_and_findings_that_change_the_answer_are_said_and_the_rest_counted():
    causes = tuple(Cause(text=text, row="hidden, lr", change=1.0, n_explained=1) for text in ("one", "two", "three"))
    findings = tuple(
        Finding(f"n{i}", effect, f"seen {i}") for i, effect in enumerate(("no pass", "warning", "warning"))
    )
    judgement = replace(judged("wrong"), causes=causes, findings=findings)
    text = page(judgement)
    assert "  likely cause 1: one (look at: hidden, lr)\n" in text and "likely cause 2" not in text
    assert "  ... and 2 more likely causes on --all\n" in text
    assert "  no pass: seen 0\n" in text and "  warning: seen 1 (and 1 more warning on --all)\n" in text
    whole = page(judgement, every=True)
    assert re.findall(r"likely cause (\d): (\w+) ", whole) == [("1", "one"), ("2", "two"), ("3", "three")]
    assert "  warning: seen 2\n" in whole
    # a cause that is the reason is not said twice
    same = page(replace(judgement, reason="one", causes=causes[:1]))
    assert "  why: one\n" in same and "likely cause" not in same


def test_one_width_has_a_reason_and_no_rows():
    text = page(judge_one(RIGHT, runs=make_runs(widths=(64,))))
    assert rows_of(text) == [] and "size by width" not in text
    assert "why: 1 width (64), where a slope needs at least 3" in text
