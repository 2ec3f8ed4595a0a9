"""A difference as Markdown and as a document: what moved first, and no name can break out of its cell."""

import json
import math
import re
from dataclasses import replace

import pytest
from planted_checks import EFFECTIVE, RIGHT, plant, together

from mupcheck.gate.diff_words import HEAD, LEFT_OUT, N_ROWS, document_of_difference, markdown_of_difference, row_of
from mupcheck.gate.difference import diff
from mupcheck.gate.moves import Move, Span

WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}
NASTY = "a|b`c`<b>*d*_e_\n@someone #1"
INF = math.inf


def cells_of(text):
    """Return the cells of every table row, split as Markdown splits them."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def test_markdown_says_groups_first_and_then_what_moved():
    difference = diff(
        together(plant(), plant(parametrization="sp")),
        together(plant(seeds=(4, 5, 6, 7)), plant(WRONG, parametrization="sp", seeds=(4, 5, 6, 7))),
    )
    text = markdown_of_difference(difference)
    lines = [line for line in text.splitlines() if line]
    assert lines[:5] == [
        "### mupcheck diff: ❌ moved",
        "A: A, B: B",
        "- measured in another way: seeds 0 to 3 -\\> 4 to 7".replace("\\>", "&gt;"),
        "- ❌ sp (adamw, head-dim): 1 of 3 slopes moved; verdict pass -&gt; fail",
        "- ✅ gdn-mup (adamw, head-dim): none of 3 slopes moved; verdict pass in both",
    ]
    head, _, row = cells_of(text)
    assert [cell.strip() for cell in head] == list(HEAD)
    assert [cell.strip() for cell in row][:2] == [r"effective\_update", r"a\_proj"]
    assert row[-1].strip() == "pass -&gt; fail"
    every = cells_of(markdown_of_difference(difference, every=True))
    assert len(every) == 2 * (2 + 3)


@pytest.mark.parametrize("every", [True, False])
def test_no_name_breaks_out_of_markdown(every):
    difference = diff(plant(), plant(WRONG, parametrization=NASTY, data=NASTY, sweep="t"), names=(NASTY, NASTY))
    pair = difference.pairs[0]
    moves = tuple(replace(each, name=NASTY, of=NASTY, reason=NASTY) for each in pair.moves)
    measured = replace(pair.measured, why=(NASTY,))
    whole = replace(difference, pairs=(replace(pair, moves=moves, measured=measured, title=NASTY),), only_a=(NASTY,))
    text = markdown_of_difference(whole, every=every)
    assert {len(row) for row in cells_of(text)} == {len(HEAD)}
    assert "<b>" not in text and "@someone" not in text.replace(r"\@someone", "") and "`c`" not in text
    safe = r"a\|b\`c\`&lt;b&gt;\*d\*\_e\_ \@someone \#1"
    # A and B, what is in A alone, both data, the headline, the title, why, and two or three cells a row
    assert text.count(safe) == 2 + 1 + 1 + 1 + 1 + 1 + len(pair.moves if every else pair.worth) * 2 + (2 * every)


def test_of_many_rows_the_first_are_shown_and_that_is_said():
    difference = diff(plant(), plant(WRONG))
    pair = difference.pairs[0]
    for n, left in ((N_ROWS, False), (N_ROWS + 1, True)):
        many = replace(difference, pairs=(replace(pair, moves=pair.moves[:1] * n),))
        text = markdown_of_difference(many)
        assert len(cells_of(text)) == 2 + N_ROWS and (LEFT_OUT in text) == left
        assert len(cells_of(markdown_of_difference(many, every=True))) == 2 + n


def test_a_document_has_everything_and_is_json():
    difference = diff(plant(), plant(WRONG, commit="x"))
    document = document_of_difference(difference)
    assert (document["outcome"], document["a"], document["b"]) == ("moved", "A", "B")
    (pair,) = document["pairs"]
    assert (pair["was"], pair["now"], pair["outcome"]) == ("pass", "fail", "moved")
    first = pair["moves"][0]
    assert (first["what"], first["name"], first["of"]) == ("slope", "effective_update rms", "a_proj later")
    assert first["moved"] and set(first["difference"]) == set(first["a"]) == {"value", "low", "high"}
    open_ended = replace(difference.pairs[0].moves[0], difference=Span(1.0, 0.5, INF), b=Span(*[math.nan] * 3))
    bounds = replace(difference, pairs=(replace(difference.pairs[0], moves=(open_ended,)),))
    (move,) = document_of_difference(bounds)["pairs"][0]["moves"]
    assert move["difference"] == {"value": 1.0, "low": 0.5, "high": None} and set(move["b"].values()) == {None}
    json.dumps(document, allow_nan=False)


def test_a_bound_reads_as_one():
    low = Move("best lr", "best lr", "width 64", Span(-9, -INF, -8), Span(-5, -6, INF), Span(4, 2, INF), 0.5, "moved")
    assert row_of(low) == ("best lr", "width 64", "< 2^-8.00", "> 2^-6.00", "> +2.00", "", "moved")
    known = Span(-7.0, -7.5, -6.5)
    both = replace(low, a=known, b=Span(-7.0, -INF, INF), difference=Span(0, -INF, INF), verdict="cannot tell")
    assert row_of(both) == ("best lr", "width 64", "2^-7.00", "?", "?", "", "cannot tell")
    cost = replace(low, what="cost", a=Span(1.0, 0.5, 2.0), b=Span(3.0, 2.5, 4.0), difference=Span(2.0, 1.0, 3.1))
    assert row_of(cost)[2:6] == ("1.0%", "3.0%", "+2.0%", "[+1.0%, +3.1%]")
    small = replace(low, a=known, b=known, difference=Span(-0.001, -0.0049, 0.004))
    assert row_of(small)[4:6] == ("+0.00", "[+0.00, +0.00]"), "no zero has a minus"
    only = replace(low, was="", now="fail", verdict="only in B")
    assert row_of(only)[-1] == "only in B"
    nothing = replace(low, b=Span(*[math.nan] * 3), difference=Span(*[math.nan] * 3), verdict="only in A")
    assert row_of(nothing)[3:] == ("", "", "", "only in A")
    turned = replace(low, was="pass", now="fail", verdict="cannot tell", reason="one seed")
    assert row_of(turned)[-1] == "pass -> fail, cannot tell (one seed)"
