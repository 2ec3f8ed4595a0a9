"""Random command lines and mutated sweep files; `make faults` tries more of them."""

import pytest
from commands import Answer
from fuzz import measure, wrong_with


def test_no_command_line_and_no_sweep_file_ends_in_a_traceback(tmp_path):
    for line in measure(tmp_path, times=150, seed=1):
        assert line.good, line.faults


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (["rules"], Answer(1, "", "")),
        (["coord"], Answer(3, "", "")),
        (["check"], Answer(4, "", "error: x")),
        (["rules"], Answer(70, "", "this is a bug")),
        (["rules"], Answer(2, "", "")),
        (["rules"], Answer(0, "", "Traceback (most recent call last):")),
    ],
)
def test_what_is_not_an_answer_is_found(line, answer):
    assert wrong_with(line, answer)
    assert not wrong_with(["check"], Answer(3, "", ""))
    assert not wrong_with(["rules"], Answer(2, "", "error: unknown"))
