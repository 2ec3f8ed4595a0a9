"""One self-contained HTML page of a results folder: the answers of `check`, with charts that can be asked."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mupcheck.gate.check import check_results
from mupcheck.gate.difference import diff
from mupcheck.report.content import sections_of
from mupcheck.report.page import page_of
from mupcheck.report.vega import library, library_beside
from mupcheck.results.files import write_text
from mupcheck.results.printing import counted
from mupcheck.results.reading import Results, load_results
from mupcheck.results.status import RUNNING, Status, status_of, sweeps_in

NAME = "report.html"


def report(
    results: Results,
    *,
    title: str,
    progress: Sequence[str] = (),
    refresh: float | None = None,
    against: Results | None = None,
    name: str = "A",
) -> str:
    """Return the page of results that are in memory.

    Args:
        results: with their steps, where curves are to be drawn.
        title: of the page.
        progress: lines on sweeps that run.
        refresh: seconds after which the page loads itself anew; None for never.
        against: other results, A, since which the page says what moved; None for none.
        name: of A.
    Raises:
        ValueError: if there is nothing to judge, or as `gate.difference.diff`.
    """
    return _page(results, library, against=against, name=name, title=title, progress=progress, refresh=refresh)


def write_report(path: str | Path, out: str | Path | None = None, *, against: str | Path | None = None) -> Path:
    """Write the page of a results folder, or of one sweep's folder in it, and return its file.

    Args:
        path: the folder.
        out: the file (default: report.html in the folder).
        against: the folder of other results, since which the page says what moved.
    Raises:
        ValueError: if there is nothing to judge, or as `gate.difference.diff`.
        StoreError: if the file cannot be written.
    """
    file = _file_of(path, out)
    with library_beside() as made:
        page = _page(load_results(path, coded=True), made, title=_title_of(path), **_other(against))
    write_text(file, page)
    return file


def watch_report(
    path: str | Path, out: str | Path | None = None, *, against: str | Path | None = None, seconds: float = 10.0
) -> Iterator[Path]:
    """Write the page again and again while a sweep in a folder runs, and once more when none does; yield its file.

    The page refreshes itself as often, says how far each sweep is, and what can already be told.

    Args:
        path, out, against: as of `write_report`; what is read of `against` is read once.
        seconds: between two times.
    Raises:
        ValueError, StoreError: as of `write_report`; with no run finished there is a page all the same.
    """
    file, other = _file_of(path, out), _other(against)
    while True:
        found = [status_of(folder) for folder in sweeps_in(path)]
        running = any(status.state == RUNNING for status in found)
        progress, refresh = [_progress_of(status) for status in found], seconds if running else None
        try:
            page = report(
                load_results(path, coded=True), title=_title_of(path), progress=progress, refresh=refresh, **other
            )
        except ValueError:
            if not running:
                raise
            page = page_of([], title=_title_of(path), library="", progress=progress, refresh=refresh)
        write_text(file, page)
        yield file
        if not running:
            return
        time.sleep(seconds)


def _page(
    results: Results, made: Callable[[], str], *, against: Results | None = None, name: str = "A", **about: Any
) -> str:
    """Return the page of results; `made` returns the library, and `about` is what else `page_of` takes."""
    difference = None if against is None else diff(against, results, names=(name, "this page"))
    sections = sections_of(check_results(results), results, difference)
    return page_of(sections, library=made(), **about)


def _file_of(path: str | Path, out: str | Path | None) -> Path:
    return Path(path) / NAME if out is None else Path(out)


def _other(path: str | Path | None) -> dict[str, Any]:
    """Return the results to compare with, and their name, as `report` takes them."""
    return {} if path is None else {"against": load_results(path, coded=True), "name": str(path)}


def _title_of(path: str | Path) -> str:
    return f"mupcheck: {Path(path).resolve().name}"


def _progress_of(status: Status) -> str:
    """Say how far a sweep is, in one line."""
    total = status.total
    left = "" if status.seconds_left is None else f", about {max(status.seconds_left / 60, 1):.0f} min left"
    return f"{status.name}: {status.state}, {total.done} of {counted(total.planned, 'run')}{left}"
