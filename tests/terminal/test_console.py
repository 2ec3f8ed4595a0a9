"""Tables lose no part of a word in a narrow terminal; a row is one line in a pipe."""

import io
import re

import pytest

from mupcheck.terminal.console import console, print_json, table_of

SITES = ("activation_update mean_abs", "final_norm_gain", "effective_update rms", "o_norm_eps_ratio")
ROWS = [
    (site, str(i), "[-0.12, +0.31]", "cannot tell: more than a few words of explanation")
    for i, site in enumerate(SITES)
]


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch, stream: io.StringIO, columns: int) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    table = table_of("quantity", "layer", "90% interval", "reading")
    for row in ROWS:
        table.add_row(*row)
    console().print(table)
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 20, 5])
def test_a_table_has_whole_words_in_any_terminal(monkeypatch, columns):
    text = shown(monkeypatch, Terminal(), columns)
    words = text.split()
    for row in ROWS:
        for cell in row:
            for word in cell.split():
                assert word in words
    assert "…" not in text and "..." not in text
    if columns >= 60:
        assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("columns", [200, 40])
def test_a_pipe_gets_a_line_a_row_without_blanks_at_its_end(monkeypatch, columns):
    lines = shown(monkeypatch, io.StringIO(), columns).splitlines()
    assert len([line for line in lines if line and not set(line.strip()) <= set("─-")]) == len(ROWS) + 1
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)
    assert lines == [line.rstrip() for line in lines]
    assert max(map(len, lines)) < 120  # as wide as it needs to be


def test_json_is_written_as_the_stream_can_take_it(monkeypatch):
    for encoding, text in (("ascii", '"\\u03bc"'), ("utf-8", '"μ"')):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", stream)
        print_json("μ")
        stream.flush()
        assert stream.buffer.getvalue().decode().strip() == text
