"""Figures from the answers of `judge` and `transfer`; nothing is computed here but where ink goes.

`figures` returns them, `plot_results` writes each as PNG, SVG or PDF, under these names, in `figures/` of the sweep's
folder. The few that answer a sweep's question are marked with *, and are all that is drawn where no more is asked for:

    slopes_<parametrization> *            every slope with its interval against what is required
    coords_effective_update *             what each weight's change does to its input, against width: parametrizations
    coords_activation *                   side by side, a row for each site; and the same of activations
    coords_<kind>[_spectral]              the same of every other kind of size
    coords_<parametrization>_<kind>       the same of one parametrization alone, with all its sites
    gates_<parametrization>               slopes of the gates' gradients and the rules they speak for, where they do
    loss_vs_lr *                          loss against lr by width, parametrizations side by side
    optimum_vs_width *                    the best lr at each width, its drift, and from where it diverges
    penalty *                             what each width's best lr costs every other width; * where it costs something
    wider_is_better                       loss of each width less the next narrower one's, by lr and step

In the style of a paper, without title and as wide as one column and as two, the caption beside it as .txt:

    paper_loss_vs_lr_single, _double *    loss against log2 lr by width, parametrizations side by side
    paper_coords_<kind>_single, _double   coordinate sizes against width, a column for each parametrization, a row for
                                          each site, a line for each step; * effective_update and activation

A name gets `_<optimizer>_<mode>` at its end where one sweep has several of them. What a file name cannot hold of a
parametrization's name is written as %XX. The same results give the same bytes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mupcheck.plots.backend  # noqa: F401  first: it sees to it that matplotlib can be imported
from mupcheck.plots import canvas
from mupcheck.plots.catalog import Sketch, choose, sketches
from mupcheck.plots.coordinates import draw_coordinates
from mupcheck.plots.formats import check_style, read_formats, save
from mupcheck.plots.frame import Caption
from mupcheck.plots.gates import draw_gates
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import draw_slopes
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.wider import draw_wider
from mupcheck.results.files import StoreError, check_writable
from mupcheck.results.printing import said
from mupcheck.results.reading import Results, load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Caption",
    "draw_coordinates",
    "draw_gates",
    "draw_losses",
    "draw_optima",
    "draw_penalties",
    "draw_slopes",
    "draw_wider",
    "figures",
    "plot_results",
]


def figures(
    results: Results | str | Path,
    only: str | Sequence[str] | None = None,
    *,
    every: bool = False,
    style: str = "page",
) -> "dict[str, Figure]":
    """Draw figures of results and return them by name, as matplotlib figures; nothing is written.

    In a notebook a figure shows itself. The user's matplotlib settings do not enter, and pyplot is not touched.

    Args:
        results: a results folder, one sweep's folder, or what `load_results` returned.
        only: names of figures, or patterns such as "coords_*" (default: the few that answer).
        every: all that there are.
        style: "page", or "paper" for figures as wide as a paper's column and as its page.

    Returns:
        Figures by their files' names without the ending; with the sweep's name in front where there are several.

    Raises:
        ValueError: if there is nothing to draw, `only` names no figure of these results, there is no such style, or
            runs do not compare.
    """
    check_style(style)
    loaded = _load(results)
    several = loaded.runs["sweep"].nunique() > 1
    with canvas.drawing_style(style):
        chosen = choose(sketches(loaded, style), only, every=every)
        drawn = {f"{sketch.sweep}/{sketch.stem}" if several else sketch.stem: sketch.draw() for sketch in chosen}
    return drawn or _nothing(loaded)


def plot_results(
    results: Results | str | Path,
    out: str | Path | None = None,
    *,
    only: str | Sequence[str] | None = None,
    every: bool = False,
    formats: str | Sequence[str] | None = None,
    style: str = "page",
    tell: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw figures of results into files, one figure at a time, and return the files written.

    Args:
        results: a results folder, one sweep's folder, or what `load_results` returned.
        out: folder for the figures, with a folder for each sweep where there are several (default: `figures/` in each
            sweep's own folder, which only a path can tell).
        only: names of figures, or patterns such as "coords_*" (default: the few that answer).
        every: all that there are.
        formats: of png, svg and pdf, a list or parted by commas (default: png,svg; of the style "paper" pdf,png).
        style: "page", or "paper" for figures as wide as a paper's column and as its page, the caption beside them.
        tell: is called with a line on what was not drawn, where something was not and no names were given.

    Raises:
        ValueError: as `figures`, or if there is no such format, or the folder cannot be written to.
        StoreError: if a file cannot be written after all.
    """
    endings = read_formats(formats, check_style(style))
    path = None if isinstance(results, Results) else Path(results)
    loaded = _load(results)
    folders = _folders(list(loaded.runs["sweep"].unique()), path, None if out is None else Path(out))
    for folder in folders.values():
        try:
            check_writable(folder)
        except ValueError as error:
            raise ValueError(f"{error} with --out" if out is None else str(error)) from error
    written = []
    with canvas.drawing_style(style):
        found = sketches(loaded, style)
        chosen = choose(found, only, every=every)
        for sketch in chosen:
            written += _save(sketch, folders[sketch.sweep], endings)
    if not written:
        _nothing(loaded)
    if tell is not None and only is None and len(chosen) < len(found):
        kinds = sorted({sketch.name for sketch in found} - {sketch.name for sketch in chosen})
        more = f": {', '.join(kinds)}" if kinds else ""
        n = len(found) - len(chosen)
        tell(f"{n} more figure{'s' if n > 1 else ''} with --all{more}")
    return written


def _load(results: Results | str | Path) -> Results:
    if isinstance(results, Results):
        return results
    if not isinstance(results, str | Path):
        raise ValueError(f"figures are drawn of what load_results() returned, or of its folder, not of {said(results)}")
    return load_results(Path(results), tables=("runs", "steps", "coords"))


def _nothing(results: Results) -> "dict[str, Figure]":
    raise ValueError(f"nothing to draw: none of the {len(results.runs)} runs finished with something measured")


def _folders(sweeps: list[str], path: Path | None, out: Path | None) -> dict[str, Path]:
    """Return where the figures of each sweep go."""
    if out is not None:
        return {sweep: out / sweep if len(sweeps) > 1 else out for sweep in sweeps}
    if path is None:
        raise ValueError("out is not given; results that were loaded before do not tell their folder, so name one")
    return {sweep: (path if (path / "runs").is_dir() else path / sweep) / "figures" for sweep in sweeps}


def _save(sketch: Sketch, folder: Path, formats: Sequence[str]) -> list[Path]:
    figure, words = sketch.draw(), folder / f"{sketch.stem}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = save(figure, folder, sketch.stem, formats)
        if sketch.words is not None:
            words.write_text(sketch.words(), encoding="utf-8")
    except OSError as error:
        at = folder / sketch.stem
        raise StoreError(f"cannot write {at}: {error.strerror or error}; free space and rerun") from error
    return files if sketch.words is None else [*files, words]
