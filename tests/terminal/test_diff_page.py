"""What moved fits a terminal of any width, and is a line a row in a pipe."""

import pytest
from planted_checks import EFFECTIVE, RIGHT, plant
from screens import seen

from mupcheck.gate.difference import diff
from mupcheck.terminal.diff_page import print_difference

STEEP = RIGHT | {(*EFFECTIVE, 1): 0.5}
DIFFERENCE = diff(
    plant(), plant(STEEP, parametrization="μ→[red]x", sweep="t", seeds=(4, 5, 6, 7)), names=("results/a", "results/b")
)


def shown(**options):
    return seen(lambda: print_difference(DIFFERENCE, every=True), **options)


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(columns):
    lines = shown(columns=columns).splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    for said in ("seeds 0 to 3 -> 4 to 7", "effective_update", "[+0.47, +0.55]", "pass -> fail", "μ→[red]x (adamw"):
        assert said in text
    assert columns > 30 or "   [+0.47, +0.55], pass ->" in lines, "a row in words; its last cell has no heading"


def test_a_pipe_has_a_line_a_row():
    lines = shown().splitlines()
    (row,) = [line for line in lines if "effective_update" in line]
    assert row.split()[:4] == ["effective_update", "a_proj", "+0.00", "+0.50"] and row.endswith("pass -> fail")
    assert max(map(len, lines[3:])) <= 80
