"""mupcheck diff: exit codes, what is printed where, files, and one line for what cannot be compared."""

import pytest
from commands import mupcheck
from planted_checks import EFFECTIVE, RIGHT, plant, together, write

from mupcheck.cli import exits

WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results as sweeps would have written them: before, the same again by other seeds, wrong, and two sweeps."""
    out = tmp_path_factory.mktemp("diff")
    write(plant(), out / "before")
    write(plant(seeds=tuple(range(8, 16)), noise=0.01), out / "again")
    write(plant(WRONG), out / "wrong")
    write(plant(noise=2.0, seeds=(8, 9)), out / "noisy")
    write(together(plant(sweep="one"), plant(sweep="two")), out / "two")
    return out


@pytest.mark.parametrize(
    ("a", "b", "code", "outcome"),
    [
        ("before", "before", exits.OK, "same"),
        ("before", "again", exits.OK, "same"),
        ("before", "before/s", exits.OK, "same"),
        ("before", "wrong", exits.FAILED, "moved"),
        ("wrong", "before", exits.FAILED, "moved"),
        ("before", "noisy", exits.CANNOT_TELL, "cannot tell"),
    ],
)
def test_it_exits_by_what_moved(folder, a, b, code, outcome):
    answer = mupcheck("diff", folder / a, folder / b)
    assert (answer.code, answer.err) == (code, "")
    assert answer.out.startswith(f"A {folder / a}\nB {folder / b}\n")
    assert f"1 in both: {outcome} (mupcheck explain diff)" in answer.out.splitlines()[-1]
    document = mupcheck("diff", folder / a, folder / b, "--json")
    assert (document.code, document.json["outcome"]) == (code, outcome)


def test_strict_fails_what_cannot_be_told(folder):
    assert mupcheck("diff", folder / "before", folder / "noisy", "--strict").code == exits.FAILED
    assert mupcheck("diff", folder / "before", folder / "before", "--strict").code == exits.OK


def test_what_moved_is_a_row_and_the_rest_is_counted(folder):
    answer = mupcheck("diff", folder / "before", folder / "wrong")
    lines = [line.rstrip() for line in answer.out.splitlines()]
    assert lines[2] == "gdn-mup (adamw, head-dim): 1 of 3 slopes moved; verdict pass -> fail"
    (row,) = [line for line in lines if "effective_update" in line]
    assert row.split()[1:4] == ["a_proj", "+0.00", "+0.50"] and row.endswith("pass -> fail")
    assert "  1 moved, 2 same" in lines and max(map(len, lines[2:])) <= 80
    assert lines[-1].endswith("; --all prints every quantity")
    every = mupcheck("diff", folder / "before", folder / "wrong", "--all").out
    assert every.count("residual") == 2 and "--all" not in every


def test_markdown_is_added_to_a_file(folder, tmp_path):
    file = tmp_path / "new" / "summary.md"
    for n in (1, 2):
        assert mupcheck("diff", folder / "before", folder / "wrong", "--markdown", file).code == exits.FAILED
        assert file.read_text(encoding="utf-8").count("### mupcheck diff: ❌ moved\n") == n
    blocked = mupcheck("diff", folder / "before", folder / "wrong", "--markdown", tmp_path)
    assert blocked.code == exits.STORAGE and "cannot write" in blocked.err


def test_what_cannot_be_compared_is_one_line(folder, tmp_path):
    for arguments, said in (
        ((folder / "none", folder / "before"), "does not exist"),
        ((folder / "before", folder / "none"), "does not exist"),
        ((folder / "before", tmp_path), "no runs under"),
        ((folder / "before", folder / "two"), f"none of them in {folder / 'before'}; give one sweep's folder"),
        ((folder / "before",), "B is missing"),
    ):
        answer = mupcheck("diff", *arguments)
        assert (answer.code, answer.out, answer.err.count("\n")) == (exits.USAGE, "", 1)
        assert said in answer.err
    assert mupcheck("diff", folder / "before", folder / "two" / "one").code == exits.OK


def test_a_page_says_what_moved(folder, tmp_path):
    page = tmp_path / "page.html"
    answer = mupcheck("report", folder / "wrong", "--against", folder / "before", "--out", page)
    assert (answer.code, answer.err) == (exits.OK, "")
    assert "What moved since A" in page.read_text(encoding="utf-8")
    answer = mupcheck("report", folder / "wrong", "--against", folder / "none", "--out", page)
    assert answer.code == exits.USAGE and "does not exist" in answer.err
