"""One self-contained HTML page of a results folder: the answers of `check`, with charts that can be asked."""

from functools import cache
from pathlib import Path

from mupcheck.gate.check import check_results
from mupcheck.report.content import sections_of
from mupcheck.report.page import page_of
from mupcheck.results.files import write_text
from mupcheck.results.reading import Results, load_results

NAME = "report.html"


def report(results: Results, *, title: str) -> str:
    """Return the page of results that are in memory.

    Args:
        results: with their steps, where curves are to be drawn.
        title: of the page.
    Raises:
        ValueError: if there is nothing to judge.
    """
    return page_of(sections_of(check_results(results), results), title=title, library=_library())


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; it takes two seconds to put together."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def write_report(path: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a results folder, or of one sweep's folder in it, and return its file.

    Args:
        path: the folder.
        out: the file (default: report.html in the folder).
    Raises:
        ValueError: if there is nothing to judge.
        StoreError: if the file cannot be written.
    """
    path = Path(path)
    file = path / NAME if out is None else Path(out)
    page = report(load_results(path), title=f"mupcheck: {path.resolve().name}")
    write_text(file, page)
    return file
