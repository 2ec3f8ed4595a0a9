"""Figures from the answers of `slopes` and `transfer`; nothing is computed here but where ink goes.

Every figure is written as PNG and SVG under these names, in `figures/` of the sweep's folder:

    coords_<parametrization>_<kind>            coordinate size (rms) against width, a panel for each site
    coords_<parametrization>_<kind>_spectral   the same of spectral norms
    gates_<parametrization>                    slopes of the gates' gradients, and the rules they speak for
    slopes_<parametrization>                   every slope with its interval against what is required
    loss_vs_lr                                 loss against lr by width, parametrizations side by side
    optimum_vs_width                           the best lr at each width, its drift, and from where it diverges
    penalty                                    what each width's best lr costs every other width
    wider_is_better                            loss of each width less the next narrower one's, by lr and step

A name gets `_<optimizer>_<mode>` at its end where one sweep has several of them. What a file name cannot hold of a
parametrization's name is written as %XX. The same results give the same bytes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from mupcheck.coordinates.gates import fit_gates, has_gates
from mupcheck.coordinates.judge import judge
from mupcheck.learning_rates.drift import transfer
from mupcheck.plots import canvas
from mupcheck.plots.coordinates import draw_coordinates
from mupcheck.plots.gates import draw_gates
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import OF_SITES, OF_WEIGHTS, draw_slopes
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.wider import draw_wider
from mupcheck.results.files import StoreError, check_writable
from mupcheck.results.reading import Results, load_results
from mupcheck.theory.parametrization import TABLES

# (kind, stat) whose sizes are drawn: mean_abs looks as rms does, and nothing is required of weights and their gradients
COORDINATES = [OF_SITES[0], *OF_SITES[2:], *OF_WEIGHTS[:3]]

__all__ = [
    "draw_coordinates",
    "draw_gates",
    "draw_losses",
    "draw_optima",
    "draw_penalties",
    "draw_slopes",
    "draw_wider",
    "plot_results",
]


def plot_results(results: Results | str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw every figure that the results have the runs for, and return the files written.

    Args:
        results: a results folder, one sweep's folder, or what `load_results` returned.
        out: folder for the figures, with a folder for each sweep where there are several (default: `figures/` in each
            sweep's own folder, which only a path can tell).

    Raises:
        ValueError: if there is nothing to draw, the folder cannot be written to, or runs do not compare.
        StoreError: if a file cannot be written after all.
    """
    path = None
    if not isinstance(results, Results):
        path = Path(results)
        results = load_results(path, tables=("runs", "steps", "coords"))
    folders = _folders(list(results.runs["sweep"].unique()), path, None if out is None else Path(out))
    for folder in folders.values():
        check_writable(folder)
    written = []
    for sweep, folder in folders.items():
        runs = results.runs[results.runs["sweep"] == sweep]
        with canvas.drawing_style():
            for stem, figure in _figures(replace(results, runs=runs)):
                written += _save(figure, folder, stem)
    if not written:
        raise ValueError(f"nothing to draw: none of the {len(results.runs)} runs finished with something measured")
    return written


def _folders(sweeps: list[str], path: Path | None, out: Path | None) -> dict[str, Path]:
    """Return where the figures of each sweep go."""
    if out is not None:
        return {sweep: out / sweep if len(sweeps) > 1 else out for sweep in sweeps}
    if path is None:
        raise ValueError("out is not given; results that were loaded before do not tell their folder, so name one")
    return {sweep: (path if (path / "runs").is_dir() else path / sweep) / "figures" for sweep in sweeps}


def _figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield the file name, without its ending, and the figure of everything there is to draw of one sweep's runs."""
    groups = list(results.runs.groupby(["optimizer", "mode"]))
    coords = results.coords[results.coords["run_id"].isin(results.runs["run_id"])]
    for (optimizer, mode), group in groups:
        tag = f"_{optimizer}_{mode}" if len(groups) > 1 else ""
        setting = f"{optimizer} · {mode}"
        of_group = replace(results, runs=group, coords=coords)
        if "coord" in of_group.kinds:
            for stem, figure in _coordinate_figures(of_group, setting):
                yield stem + tag, figure
        if "lr" in of_group.kinds:
            answers = sorted(transfer(of_group), key=lambda answer: _order(answer.parametrization))
            yield f"loss_vs_lr{tag}", draw_losses(answers, title=f"Loss against lr · {setting}")
            yield f"optimum_vs_width{tag}", draw_optima(answers, title=f"Optimum against width · {setting}")
            yield f"penalty{tag}", draw_penalties(answers, title=f"Cost of another width's best lr · {setting}")
            if any(answer.wider_is_better.comparisons for answer in answers):
                yield f"wider_is_better{tag}", draw_wider(answers, title=f"Wider is better · {setting}")


def _coordinate_figures(results: Results, setting: str) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of the coordinate checks among the runs of one optimizer and mode."""
    runs, coords = results.runs, results.coords
    gates = fit_gates(runs, coords) if has_gates(runs, coords) else []
    finished = runs.loc[(runs["kind"] == "coord") & (runs["status"] != "failed")]
    sizes = coords.merge(finished[["run_id", "parametrization", "width", "seed"]], on="run_id")
    for judgement in sorted(judge(results), key=lambda judgement: _order(judgement.parametrization)):
        name, judged = judgement.parametrization, judgement.slopes
        if judged.empty:
            continue
        of_name = sizes[sizes["parametrization"] == name]
        head, file_name = canvas.shorten(name, 28), quote(name, safe="")
        for kind, stat in COORDINATES:
            rows = of_name[(of_name["kind"] == kind) & (of_name["stat"] == stat)]
            if not rows.empty:
                of_kind = judged[(judged["kind"] == kind) & (judged["stat"] == stat)]
                stem = f"coords_{file_name}_{kind}" + ("" if stat == "rms" else f"_{stat}")
                title = f"{head} · {setting}: {kind}" + ("" if stat == "rms" else f", {stat}")
                yield stem, draw_coordinates(rows, of_kind, title=title)
        verdict = canvas.verdict_text(judgement.verdict)
        yield f"slopes_{file_name}", draw_slopes(judged, title=f"{head} · {setting}: slopes  {verdict}")
        if of_gates := [gate for gate in gates if gate.parametrization == name]:
            yield f"gates_{file_name}", draw_gates(of_gates, title=f"{head} · {setting}: gate gradients")


def _order(parametrization: str) -> tuple[int, str]:
    """Sort the shipped tables as they are listed, then custom ones by name."""
    shipped = list(TABLES)
    return (shipped.index(parametrization) if parametrization in TABLES else len(shipped)), parametrization


def _save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return canvas.save(figure, folder, stem)
    except OSError as error:
        raise StoreError(f"cannot write {folder / stem}: {error.strerror or error}; free space and rerun") from error
