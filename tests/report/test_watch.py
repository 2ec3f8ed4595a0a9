"""A page that refreshes itself while a sweep runs, and is still once none does."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_results import write_example

from mupcheck import report
from mupcheck.report import watch_report
from mupcheck.results.reading import Results
from mupcheck.results.status import COMPLETE, INTERRUPTED, RUNNING, AtWidth, Status

REFRESH = '<meta http-equiv="refresh"'


@pytest.fixture
def standing(monkeypatch):
    """Return a function that says how the sweep stands from look to look."""

    def stand(*states, left=90.0):
        at = iter(states)
        status = Status(Path(), "s<b>", "lr", RUNNING, (AtWidth(32, planned=4, done=3),), seconds_left=left)
        monkeypatch.setattr(report, "sweeps_in", lambda path: [path])
        monkeypatch.setattr(report, "status_of", lambda folder: replace(status, state=next(at)))
        monkeypatch.setattr(report.time, "sleep", lambda seconds: None)

    return stand


def test_it_is_written_until_no_sweep_runs(tmp_path, standing, monkeypatch):
    standing(RUNNING, RUNNING, COMPLETE)
    told = []

    def page(results: Results, *, title, progress, refresh):
        told.append((title, progress, refresh))
        return f"page {len(told)}"

    monkeypatch.setattr(report, "report", page)
    write_example(tmp_path)
    pages = [file.read_text() for file in watch_report(tmp_path, seconds=7)]
    assert pages == ["page 1", "page 2", "page 3"]
    assert [refresh for _, _, refresh in told] == [7, 7, None]
    assert told[0][1] == ["s<b>: running, 3 of 4 runs, about 2 min left"]


def test_before_a_run_has_finished_there_is_a_page(tmp_path, standing):
    standing(RUNNING, INTERRUPTED)
    pages = watch_report(tmp_path, tmp_path / "page.html")
    text = next(pages).read_text()
    assert "No run has finished yet" in text and "s&lt;b&gt;: running" in text and REFRESH in text
    with pytest.raises(ValueError, match="no runs under"):
        next(pages)


def test_who_does_not_watch_has_a_still_page(tmp_path, standing):
    standing(COMPLETE)
    write_example(tmp_path, kind="lr", status="ok")
    (file,) = watch_report(tmp_path)
    assert REFRESH not in file.read_text() and "s&lt;b&gt;: complete, 3 of 4 runs" in file.read_text()
