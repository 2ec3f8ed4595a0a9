"""A difference as Markdown and as a document: what moved first, and no name can break out of its cell."""

import json
import math
import re
from dataclasses import replace

from planted_checks import EFFECTIVE, RIGHT, plant, together

from mupcheck.gate.diff_words import HEAD, document_of_difference, markdown_of_difference, row_of
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


def test_no_name_breaks_out_of_markdown():
    difference = diff(plant(), plant(WRONG, parametrization=NASTY, data=NASTY, sweep="t"), names=(NASTY, NASTY))
    pair = difference.pairs[0]
    moves = tuple(replace(each, name=NASTY, of=NASTY, reason=NASTY) for each in pair.moves)
    text = markdown_of_difference(replace(difference, pairs=(replace(pair, moves=moves),), only_a=(NASTY,)), every=True)
    assert {len(row) for row in cells_of(text)} == {len(HEAD)}
    assert "<b>" not in text and "@someone" not in text.replace(r"\@someone", "") and "`c`" not in text
    assert r"a\|b\`c\`&lt;b&gt;\*d\*\_e\_ \@someone \#1" in text


def test_a_document_has_everything_and_is_json():
    difference = diff(plant(), plant(WRONG, commit="x"))
    document = document_of_difference(difference)
    assert (document["outcome"], document["a"], document["b"]) == ("moved", "A", "B")
    (pair,) = document["pairs"]
    assert (pair["was"], pair["now"], pair["outcome"]) == ("pass", "fail", "moved")
    first = pair["moves"][0]
    assert (first["what"], first["name"], first["of"]) == ("slope", "effective_update rms", "a_proj later")
    assert first["moved"] and set(first["difference"]) == set(first["a"]) == {"value", "low", "high"}
    json.dumps(document, allow_nan=False)


def test_a_bound_reads_as_one():
    low = Move("best lr", "best lr", "width 64", Span(-9, -INF, -8), Span(-5, -6, INF), Span(4, 2, INF), 0.5, "moved")
    assert row_of(low) == ("best lr", "width 64", "< 2^-8.00", "> 2^-6.00", "> +2.00", "", "moved")
    known = Span(-7.0, -7.5, -6.5)
    both = replace(low, a=known, b=Span(-7.0, -INF, INF), difference=Span(0, -INF, INF), verdict="cannot tell")
    assert row_of(both) == ("best lr", "width 64", "2^-7.00", "?", "?", "", "cannot tell")
    cost = replace(low, what="cost", a=Span(1.0, 0.5, 2.0), b=Span(3.0, 2.5, 4.0), difference=Span(2.0, 1.0, 3.1))
    assert row_of(cost)[2:6] == ("1.0%", "3.0%", "+2.0%", "[+1.0%, +3.1%]")
    nothing = replace(low, b=Span(*[math.nan] * 3), difference=Span(*[math.nan] * 3), verdict="only in A")
    assert row_of(nothing)[3:] == ("", "", "", "only in A")
    turned = replace(low, was="pass", now="fail", verdict="cannot tell", reason="one seed")
    assert row_of(turned)[-1] == "pass -> fail, cannot tell (one seed)"
