"""The answer of a learning-rate sweep in short: sentences, a row a width with the analysis's numbers, what to do."""

import re
from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from planted_curves import diverge, judge, sweep
from screens import seen

from mupcheck.learning_rates.drift import transfer
from mupcheck.terminal.bars import BLOCKS, DIVERGED, axis_of
from mupcheck.terminal.console import interval_text
from mupcheck.terminal.transfer_page import print_answers

ROW = re.compile(r" (\S.*?) +(\d+) +(\S+) +([+-]\d+\.\d\d|\?) +(\[.*?\]) +(\d+\.\d{4}|\?)  ?(.*)$")


def two(**columns):
    """A table that transfers and one that drifts, whose widest model diverges at the highest lrs."""
    still, moves = sweep(noise=0.01, **columns), sweep(-1.0, noise=0.01, centre=-5.2, parametrization="sp-fanin")
    moves["run_id"] = "m" + moves["run_id"]
    diverge(moves, (moves["width"] == 128) & (moves["log2_lr"] > -5) & (moves["seed"] == 1))
    return pd.concat([still, moves], ignore_index=True)


@cache
def both():
    return transfer(two())


def page(runs=None, *, every=False, columns=None, encoding=None, **options):
    answers = both() if runs is None else transfer(runs, **options)
    return seen(lambda: print_answers(answers, every=every), columns=columns, encoding=encoding)


def test_sentences_come_first_and_every_row_is_an_optimum_of_the_analysis():
    answers = both()
    lines = page().splitlines()
    assert lines[:3] == [*(answer.sentence for answer in answers), ""]
    rows = [found.groups() for line in lines if (found := ROW.match(line))]
    optima = [(answer.parametrization, optimum) for answer in answers for optimum in answer.optima]
    assert len(rows) == len(optima) == 6
    axis = axis_of(point.log2_lr for _, optimum in optima for point in optimum.curve)
    for (name, width, lr, log2_lr, interval, loss, bars), (parametrization, optimum) in zip(rows, optima, strict=True):
        assert (name, int(width)) == (parametrization, optimum.width)
        assert lr == f"{2**optimum.log2_lr:.3g}" and log2_lr == f"{optimum.log2_lr:+.2f}"
        assert interval == interval_text(optimum.ci_low, optimum.ci_high) and loss == f"{optimum.loss:.4f}"
        assert bars.index(BLOCKS[0]) == axis.place(optimum.lowest.log2_lr) and bars.count(BLOCKS[0]) == 1
        assert bars.count(DIVERGED) == sum(point.n_diverged > 0 for point in optimum.curve)
    assert [row[-1].count(DIVERGED) for row in rows] == [0, 0, 0, 0, 0, 2]
    assert " loss by lr: from 2^-10 to 2^-3, ▁ the lowest, × where a seed diverged" in lines


def test_why_and_next_stand_where_there_is_something_to_do_alone():
    text = page()
    (drifts,) = re.findall(r"^sp-fanin \(adamw, head-dim\): drifts\n((?:  .*\n)+)", text, re.MULTILINE)
    assert re.match(r"  why: drift -\d\.\d\d \[.*outside \+-0\.25\n  next: ", drifts)
    assert "p (adamw, head-dim): transfers" not in text  # the sentence has said it
    assert text.endswith("(--all prints costs, flags and how it was measured; mupcheck explain drift)\n")
    answer = judge(sweep(-0.25, noise=0.15))
    text = page(sweep(-0.25, noise=0.15))
    assert answer.cost.verdict == answer.verdict == "cannot tell"
    assert (
        f"\n  why: {answer.reason}\n  next: {answer.next_step}\n  cost: cannot tell as {answer.cost.reason}; " in text
    )
    assert "  cost: " not in page()


def test_what_was_asked_for_and_a_note_are_said():
    text = page(two(), target=512)
    assert text.count("  best lr predicted at width 512: ") == 2
    clipped = page(two(clipped_fraction=0.5, status="ok"))
    assert "p (adamw, head-dim): transfers\n  note: clipping was active" in clipped
    runs = two(clipped_fraction=0.5)
    runs.loc[::2, "device"] = "cuda"
    assert re.search(r"note: clipping was active.* \(and 1 more note on --all\)$", page(runs), re.MULTILINE)
    assert "runs differ in device" in page(runs, every=True)


def test_missing_runs_are_said_where_the_verdict_does_not():
    answer = replace(judge(sweep(-1.0, noise=0.01)), missing="2 of 6 runs of s are missing; run it again")
    text = seen(lambda: print_answers([answer], every=False))
    assert answer.verdict == "drifts" and f"  in doubt: {answer.missing}\n" in text


def test_all_has_what_the_short_answer_leaves_out():
    text, whole = page(), page(every=True)
    for word in (
        "nats lost at",
        "lr sensitivity",
        "diverges",
        "fast transfer",
        "learning-rate sweep s: adamw",
    ):
        assert word in whole and word not in text
    assert whole.splitlines()[:2] == text.splitlines()[:2]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(columns, encoding):
    text = page(columns=columns, encoding=encoding)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in text and text.isascii() == (encoding == "ascii")
    piped = page(encoding=encoding)
    assert sorted(re.findall(r"\S*\d\S*", text)) == sorted(re.findall(r"\S*\d\S*", piped))
    # numbers stand below one another
    rows = [line for line in lines if ROW.match(line)]
    assert len(rows) == 6
    for group in (2, 3, 4, 5, 6):
        assert len({ROW.match(line).end(group) for line in rows}) == 1, group
    assert len({ROW.match(line).start(7) for line in rows}) == 1


def test_a_narrow_terminal_loses_no_number():
    flat = " ".join(page(columns=40).split())
    for line in page().splitlines():
        if found := ROW.match(line):
            name, width, lr, log2_lr, interval, loss, bars = found.groups()
            said = (
                f"{name}: width {width}, best lr {lr}, log2 lr {log2_lr}, 90% interval {interval}, fitted loss {loss}"
            )
            assert f"{said}, loss by lr {bars.strip()}" in flat


def test_a_pipe_gets_whole_sentences_and_tables_of_80_columns():
    lines = page().splitlines()
    assert max(len(line) for line in lines if ROW.match(line)) <= 80
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)
    assert sum(line.startswith("  next: ") for line in lines) == 1


def test_what_is_not_known_has_a_question_mark_and_no_lowest_bar():
    runs = sweep()
    diverge(runs, runs["width"] == 64)
    (row,) = [found.groups() for line in page(runs).splitlines() if (found := ROW.match(line)) and found[2] == "64"]
    assert row[2:] == ("?", "?", "[?, ?]", "?", DIVERGED * 8)


def test_two_answers_of_one_name_are_told_apart():
    other = sweep(noise=0.01, optimizer="sgd").assign(run_id=lambda runs: "o" + runs["run_id"])
    text = page(pd.concat([sweep(noise=0.01), other], ignore_index=True), columns=80)
    assert text.count("p (adamw, head-dim) ") == text.count("p (sgd, head-dim) ") == 3
    assert max(map(len, text.splitlines())) <= 80
