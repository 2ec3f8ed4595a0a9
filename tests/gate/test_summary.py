"""Markdown and annotations: what failed comes first, and no name can break out of its cell or command."""

import re
from dataclasses import replace

import pytest
from planted_checks import EFFECTIVE, RIGHT, plant, together

from mupcheck.coordinates.judge import judge
from mupcheck.gate.baseline import store
from mupcheck.gate.check import check_results
from mupcheck.gate.summary import N_ANNOTATIONS, N_ROWS, annotations, markdown

WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}
NASTY = "a|b`c`<b>*d*_e_\n@someone #1"


def three():
    return check_results(together(plant(), plant(noise=2.0, parametrization="mup"), plant(WRONG, parametrization="sp")))


def rows_of(text):
    """Return the cells of every table row, split as Markdown splits them."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_opens_with_all_groups_the_worst_first():
    text = markdown(three())
    assert text.startswith("### mupcheck check: ❌ failed\n")
    head, _, *rows = rows_of(text)
    assert [cell.strip() for cell in head] == ["", "table", "optimizer, mode", "verdict", "expected", "why"]
    assert [row[1].strip() for row in rows[:3]] == ["**sp**", "**mup**", "**gdn-mup**"]
    assert "required 0" in rows[0][5] and rows[2][5].strip() == "", "nothing is said of what is as it should be"
    assert text.count("<details>") == text.count("</details>") == 2


def test_markdown_shows_distance_and_drift_in_tables_of_their_own():
    then = [store(judgement) for judgement in judge(plant())]
    text = markdown(check_results(plant(WRONG), baseline=then))
    assert "| baseline |" in text and "| drifted: 1 of 3 |" in text
    wrong, moved = text.split("<details>")[1:]
    assert "slopes that do not pass: 1" in wrong and "+0.50 | pass" not in wrong
    assert re.search(
        r"\| effective\\_update rms \| a\\_proj \| later \| \+0\.50 \| .* \| 0 \| \+0\.50 \| fail \|", wrong
    )
    assert "slopes that moved since the baseline: 1" in moved
    assert re.search(r"\| \+0\.497 \| -0\.003 \| \+0\.500 \| drifted \| pass \| fail \|", moved)


def test_markdown_has_at_most_so_many_rows():
    many = {("activation_update", "rms", f"site{i}", 1): 0.5 for i in range(3)} | {
        (kind, "rms", site, 1): 0.9
        for kind in ("effective_update", "weight_update")
        for site in ("q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj", "o_proj", "gate_proj", "up_proj",
                     "down_proj", "embedding", "readout", "A_log", "dt_bias")
    }  # fmt: skip
    text = markdown(check_results(plant(many)))
    assert len(rows_of(text)) == 3 + 2 + N_ROWS
    assert re.search(r"slopes that do not pass: 2\d", text)


def test_every_row_of_a_table_has_its_columns_whatever_is_in_a_name():
    report = three()
    groups = tuple(replace(each, parametrization=NASTY, reason=NASTY) for each in report.groups)
    text = markdown(replace(report, groups=groups, missing=(NASTY,)))
    overview = rows_of(text)[:5]
    assert {len(row) for row in overview} == {6}
    assert overview[2][1].strip() == r"**a\|b\`c\`&lt;b&gt;\*d\*\_e\_ \@someone \#1**"
    assert NASTY.split("\n")[0] not in text


# --- annotations ------------------------------------------------------------------------------------------------------


def test_failures_are_errors_and_what_cannot_be_told_warnings():
    lines = annotations(three())
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert lines[0].startswith(
        "::error title=sp (adamw%2C head-dim)%3A fail%2C expected pass::reason: effective_update"
    )
    assert [line.split(" ")[0] for line in annotations(three(), strict=True)] == ["::error", "::error"]
    assert annotations(check_results(plant())) == []
    missing = replace(check_results(plant()), missing=("no run of t is there",))
    assert annotations(missing) == ["::warning title=mupcheck check::no run of t is there"]


def test_a_drift_is_shown_at_its_line_of_the_baseline():
    then = [store(judgement) for judgement in judge(plant())]
    key = (*EFFECTIVE, "later")
    then[0].entries[key] = replace(then[0].entries[key], line=42)
    report = check_results(plant(WRONG), baseline=then)
    (line,) = annotations(report, baseline="sweeps/base,line.txt")
    assert ",file=sweeps/base%2Cline.txt,line=42::" in line
    assert "file=" not in annotations(check_results(plant(WRONG)))[0]


def test_there_are_at_most_so_many_of_a_kind():
    parts = [plant(WRONG, parametrization=f"t{i:02}") for i in range(N_ANNOTATIONS + 3)]
    parts += [plant(noise=2.0, parametrization="u")]
    lines = annotations(check_results(together(*parts)))
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == N_ANNOTATIONS and len(lines) == N_ANNOTATIONS + 1
    assert errors[-1] == "::error title=and 4 more::the log of this step has all of them"
    assert len(annotations(check_results(together(*parts[:N_ANNOTATIONS])))) == N_ANNOTATIONS


@pytest.mark.parametrize("text", ["50%\r\n::error::x", "a:b,c"])
def test_no_text_can_end_a_command_or_begin_one(text):
    (checked,) = check_results(plant(WRONG)).groups
    report = replace(check_results(plant(WRONG)), groups=(replace(checked, parametrization=text, reason=text),))
    (line,) = annotations(report)
    assert "\n" not in line and "\r" not in line
    properties, message = re.fullmatch(r"::error title=(.*?)::(.*)", line).groups()
    assert not re.search(r"[:,\r\n]", properties)
    for shown in (properties, message):
        undone = shown.replace("%3A", ":").replace("%2C", ",").replace("%0D", "\r").replace("%0A", "\n")
        assert text in undone.replace("%25", "%")
