"""The page of `bench`, wide and narrow."""

import io
import json
import sys

import pytest
from planted_bench import BENCH

from mupcheck.terminal.bench_page import print_bench, say_row


def page(monkeypatch, columns: int) -> str:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    for name, value in {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    print_bench(BENCH, as_json=False)
    return out.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_table_fits_the_terminal_and_loses_no_word(monkeypatch, columns):
    text = page(monkeypatch, columns)
    tables = [line for line in text.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= columns
    words = set(text.split())
    assert {"triton", "FLA", "0.6.0", "2.12", "0.66", "50%", "R=16"} <= words
    assert "chunk: no time, as it disagrees with float64: dq by 3.0e-02 (> 0.01)" in " ".join(text.split())
    assert "a launch takes 5.0 us" in text


def test_json_is_the_whole_run(capsys):
    print_bench(BENCH, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["provenance"]["device"] == "a GPU"
    assert document["machine"]["launch_seconds"] == 5e-6
    assert document["rows"][2]["refused"].startswith("disagrees") and document["rows"][2]["times"] == {}
    assert document["rows"][0]["times"]["both"]["median"] == 1e-3


def test_a_row_is_said_as_it_is_found(capsys):
    for row in BENCH.rows[:3]:
        say_row(row)
    said = capsys.readouterr().err.splitlines()
    assert "both 1 (0.9-1.1) ms" in said[0] and "disagrees" in said[2]
