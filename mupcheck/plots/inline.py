"""One figure of results, as `Results.plot` returns it: the one that answers, or the one that is named."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mupcheck.plots import canvas
from mupcheck.plots.catalog import Sketch, sketches
from mupcheck.results.printing import said
from mupcheck.results.reading import Results

ANSWERS = ("loss_vs_lr", "coords_effective_update", "coords_size", "slopes")  # the first that there is answers


def draw_one(results: Results, name: str | None = None) -> Figure:
    """Draw one figure.

    Args:
        results: what `load_results` returned.
        name: of the figure, as its file is called without the ending, or of its kind where there is one of it; with
            the sweep's name in front, "demo/loss_vs_lr", where several sweeps have it (default: the one that answers).

    Raises:
        ValueError: if there is no such figure, or several; the message names those that there are.
    """
    if name is not None and not isinstance(name, str):
        raise ValueError(f"plot() takes the name of a figure, such as 'loss_vs_lr', not {said(name)}")
    with canvas.drawing_style():
        found = sketches(results)
        if not found:
            raise ValueError(f"nothing to draw: none of the {len(results.runs)} runs finished with something measured")
        chosen = _answering(found) if name is None else _named(found, name)
        if name is not None and not chosen:
            raise ValueError(f"{name!r} is no figure of these results; known: {_known(found, name)}")
        if len(chosen) > 1:
            which = "" if name is None else f" called {name!r}"
            several = len({sketch.sweep for sketch in found}) > 1
            names = [repr(f"{each.sweep}/{each.stem}" if several else each.stem) for each in chosen]
            raise ValueError(f"there are {len(chosen)} figures{which}; name one of {', '.join(names)}")
        return chosen[0].draw()


def _answering(found: Sequence[Sketch]) -> list[Sketch]:
    """Return of each sweep the figures that answer: one, but where it has several optimizers or modes."""
    chosen: list[Sketch] = []
    for sweep in dict.fromkeys(sketch.sweep for sketch in found):
        mine = [sketch for sketch in found if sketch.sweep == sweep]
        kinds = (kind for kind in (*ANSWERS, mine[0].name) if any(sketch.name == kind for sketch in mine))
        first = next(kinds)
        chosen += [sketch for sketch in mine if sketch.name == first]
    return chosen


def _named(found: Sequence[Sketch], name: str) -> list[Sketch]:
    """Return the figures whose file is called so, or else those whose kind is."""
    sweep, parted, rest = name.rpartition("/")
    mine = [sketch for sketch in found if not parted or sketch.sweep == sweep]
    return [each for each in mine if each.stem == rest] or [each for each in mine if each.name == rest]


def _known(found: Sequence[Sketch], name: str) -> str:
    """Name the kinds of figures: of the sweep that was named, or of each where there are several."""
    of_sweep: dict[str, dict[str, None]] = {}
    for sketch in found:
        of_sweep.setdefault(sketch.sweep, {})[sketch.name] = None
    sweep = name.rpartition("/")[0]
    if sweep in of_sweep or len(of_sweep) == 1:
        return ", ".join(of_sweep.get(sweep, next(iter(of_sweep.values()))))
    return "; ".join(f"of {sweep} {', '.join(kinds)}" for sweep, kinds in of_sweep.items())
