"""A sweep whose backend is not what the reference computes has no best lr of the delta rule."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mupcheck.learning_rates.cost import Cost
from mupcheck.learning_rates.verdict import Conclusion
from mupcheck.results.path import TO_MEND, Path


def held_to_path(conclusion: Conclusion, paths: Sequence[Path]) -> Conclusion:
    """Return a verdict as it is where the path is right or not known, else `cannot tell` with what is wrong first."""
    wrong = [str(path) for path in paths if path.departures]
    if not wrong:
        return conclusion
    rest = [conclusion.reason] if conclusion.verdict == "cannot tell" else []
    return Conclusion("cannot tell", ". ".join([*wrong, *filter(None, rest)]), TO_MEND)


def cost_held_to_path(cost: Cost, paths: Sequence[Path]) -> Cost:
    """Return what tuning small costs, with no verdict on it where the path departs."""
    reason = ". ".join(str(path) for path in paths if path.departures)
    return replace(cost, verdict="cannot tell", reason=reason, next_step=TO_MEND) if reason else cost


def notes_of_path(paths: Sequence[Path]) -> Iterator[str]:
    """Yield why a path was not compared, or where one that is right may not stay so."""
    yield from (str(path) for path in paths if path.reason)
    yield from filter(None, (path.strain for path in paths))
