"""Whether the path that was trained is the delta rule at all: its backend against the reference, once a sweep.

A kernel that is wrong passes every test of slopes where it is as wrong at every width. The comparison was made beside
training (mupcheck.sweep.path), and is read here from `sweep.json`.
"""

from collections.abc import Iterator

from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.results.path import TO_MEND


def wrong_path(check: Check) -> Iterator[Finding]:
    """Find that the backend is not what the reference computes, or that it is not known whether it is."""
    for path in check.paths:
        if path.departures:
            layers, widths = (
                tuple(dict.fromkeys(getattr(each, name) for each in path.departures)) for name in ("layer", "width")
            )
            yield Finding("path", "fail", str(path), TO_MEND, layers=layers, widths=widths)
        elif path.reason:
            yield Finding("path", "warning", str(path), "see what went wrong and run the sweep with --fresh")
        elif path.strain:
            yield Finding("path", "warning", path.strain, "mend the backend before training at large learning rates")
