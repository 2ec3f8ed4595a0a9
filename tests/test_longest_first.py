"""What takes long is handed out first and as a whole, and is there."""

from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="no xdist is installed")

from longest_first import LONGEST, TOGETHER, handed_out, longest_first

ROOT = Path(__file__).parents[1]


def test_what_takes_long_exists_and_is_there_once():
    assert len(set(LONGEST)) == len(LONGEST)
    for part in LONGEST:
        assert (ROOT / part).exists(), part
        assert (ROOT / part).is_file() or part in TOGETHER, f"files of {part} are handed out one by one"


def test_tests_go_with_their_file_and_some_with_their_folder():
    assert handed_out("tests/cli/test_help.py::test_a[x/y::z]") == "tests/cli/test_help.py"
    assert {handed_out(f"tests/readme/test_{name}.py::test_it") for name in "ab"} == {"tests/readme"}


def test_the_longest_come_first_and_the_others_as_they_are_found():
    others = ["tests/cli/test_b.py::test_2", "tests/a/test_a.py::test_1", "tests/cli/test_b.py::test_1"]
    second, first = f"{LONGEST[1]}::test_x", f"{LONGEST[0]}::test_x"
    given = [others[0], second, others[1], first, others[2]]
    assert [given[i] for i in longest_first(given)] == [first, second, *others]
