"""Tables in short and sentences: as wide as there is room, nothing is cut, columns stand below one another."""

import re

import pytest
from screens import seen

from mupcheck.terminal.grid import Column, print_grid
from mupcheck.terminal.prose import print_prose

COLUMNS = (
    Column("site"),
    Column("slope", right=True),
    Column("90% interval", right=True),
    Column("found", verdict=True),
)
ROWS = (
    ("layers.*.down.weight", "+0.92", "[+0.90, +0.95]", "fail"),
    "effective_update rms, later steps, required 0 ±0.25",
    ("embedding", "-11.40", "[?, -0.06]", "cannot tell"),
)
TEXT = (
    "sp-fanin: the best lr of width 32 costs at least 1.3% [0.9, 2.1] at 128: costly; drift -0.82 [-0.91, -0.73] "
    "octaves per doubling: cannot tell; to see why: mupcheck coord -p sp-fanin --widths 32,64,128"
)


def cells_of(rows):
    return [cell for row in rows if not isinstance(row, str) for cell in row]


def words(text):
    return text.split()


@pytest.mark.parametrize("columns", [200, 120, 80, 60, 56])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_table_keeps_to_the_terminal_and_its_columns_to_their_places(columns, encoding):
    text = seen(lambda: print_grid(COLUMNS, ROWS), columns=columns, encoding=encoding)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in text and "..." not in text
    first, last = (next(line for line in lines if row[0] in line) for row in (ROWS[0], ROWS[-1]))
    # names begin, and numbers end, at one place; no cell is broken
    for i, (column, one, other) in enumerate(zip(COLUMNS, ROWS[0], ROWS[-1], strict=True)):
        at = [line.index(cell) + (len(cell) if column.right else 0) for line, cell in ((first, one), (last, other))]
        assert at[0] == at[1], (i, lines)
    assert ("required 0 ±0.25" if encoding == "utf-8" else "required 0 +-0.25") in text.replace("\n  ", "")
    assert text.isascii() == (encoding == "ascii")


@pytest.mark.parametrize("columns", [45, 40, 30, 20, 5])
def test_a_terminal_too_narrow_gets_every_heading_and_cell_in_words(columns):
    text = seen(lambda: print_grid(COLUMNS, ROWS), columns=columns)
    flat = " ".join(words(text))
    for cell in cells_of(ROWS):
        assert cell in flat
    for column in COLUMNS[1:]:
        assert flat.count(f"{column.heading} ") == 2
    assert max(map(len, text.splitlines())) <= max(columns, 23)  # the longest word, and what it hangs by


def test_a_pipe_gets_a_line_a_row_of_80_columns_unless_a_name_is_longer():
    lines = seen(lambda: print_grid(COLUMNS, ROWS)).splitlines()
    assert max(map(len, lines)) <= 80 and lines == [line.rstrip() for line in lines]
    for row in (ROWS[0], ROWS[-1]):
        assert sum(all(cell in line for cell in row) for line in lines) == 1
    wide = [Column("a heading of many words")] * 5
    lines = seen(lambda: print_grid(wide, [("1", "2", "3", "4", "5")])).splitlines()
    assert 20 < max(map(len, lines)) <= 80 and lines[-1].split() == ["1", "2", "3", "4", "5"]
    long = ("model.layers.*.linear_attn." * 3, *ROWS[0][1:])
    lines = seen(lambda: print_grid(COLUMNS, [long])).splitlines()
    assert any(all(cell in line for cell in long) for line in lines)


def test_headings_are_broken_before_cells_are():
    columns = (Column("a heading of many words"), Column("other words here"))
    lines = seen(lambda: print_grid(columns, [("[1, 2]", "x")]), columns=20).splitlines()
    assert max(map(len, lines)) <= 20 and any("[1, 2]" in line for line in lines)
    assert words(" ".join(lines[:-2])).count("words") == 2


@pytest.mark.parametrize("columns", [120, 80, 60, 40])
@pytest.mark.parametrize("indent", [0, 2])
def test_a_sentence_is_wrapped_and_loses_nothing(columns, indent):
    text = seen(lambda: print_prose(TEXT, indent=indent), columns=columns)
    lines = text.splitlines()
    assert words(text) == words(TEXT)
    assert max(map(len, lines)) <= columns and len(lines) > 1
    hangs = [len(line) - len(line.lstrip()) for line in lines]
    assert hangs == [indent] + [indent + 2] * (len(lines) - 1)
    command = TEXT[TEXT.index("mupcheck ") :]
    for whole in ("[-0.91, -0.73]", "[0.9, 2.1]", "cannot tell", "--widths 32,64,128", *[command] * (columns >= 60)):
        assert any(whole in line for line in lines), whole


def test_a_sentence_is_one_line_in_a_pipe():
    assert seen(lambda: print_prose(TEXT, indent=2)) == f"  {TEXT}\n"
    assert seen(lambda: print_prose(f"{TEXT}  two blanks"), columns=1000) == f"{TEXT}  two blanks\n"


def test_a_word_wider_than_the_terminal_is_not_broken():
    path = "/a/long/path/of-hyphens/" * 5
    assert path in seen(lambda: print_prose(f"see {path}"), columns=40).split()


def test_verdicts_are_coloured_on_a_terminal_alone(monkeypatch):
    from screens import Pipe, Terminal

    for stream, colours in ((Terminal(), True), (Pipe(), False)):
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        print_prose("p: fail  1 judged: 1 fail", verdicts=("fail",))
        print_grid(COLUMNS, ROWS)
        shown = stream.getvalue()
        assert len(re.findall(r"\x1b\[3[123]m(fail|cannot tell)", shown)) == (3 if colours else 0)
        assert ("\x1b" in shown) == colours
