"""What figures there are of a sweep's results, which of them answer, and which were asked for; none is drawn here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from mupcheck.coordinates.gates import fit_gates, has_gates
from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.imported.sizes import SIZE
from mupcheck.learning_rates.drift import Transfer, transfer
from mupcheck.looks import COLUMN_INCHES
from mupcheck.plots import canvas
from mupcheck.plots.coordinates import MEANING, draw_coordinates
from mupcheck.plots.facts import describe_runs, describe_setting
from mupcheck.plots.frame import Caption
from mupcheck.plots.gates import draw_gates
from mupcheck.plots.gates import says_something as gates_say_something
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import OF_SITES, OF_WEIGHTS, draw_slopes, of_others
from mupcheck.plots.panels import shared_octaves
from mupcheck.plots.paper import coordinates as paper_coordinates
from mupcheck.plots.paper import losses as paper_losses
from mupcheck.plots.paper.words import describe_coordinates, describe_losses
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.penalties import says_something as penalties_say_something
from mupcheck.plots.wider import draw_wider
from mupcheck.results.comparable import is_imported
from mupcheck.results.reading import Results
from mupcheck.theory.parametrization import table_order

# (kind, stat) whose sizes are drawn: mean_abs looks as rms does, and nothing is required of weights and their gradients
COORDINATES = [*OF_WEIGHTS[:1], OF_SITES[0], *OF_SITES[2:], *OF_WEIGHTS[1:3]]
PAGES = "coords_<parametrization>_<kind>"  # the name of them all
ANSWERS = COORDINATES[:2]  # effective updates, which each isolate one rule, and activations


@dataclass(frozen=True)
class Sketch:
    """One figure that could be drawn: `name` is its kind, `stem` its file without the ending, `draw` makes it.

    `answers` says whether it is one of the few that answer the sweep's question; `words` is what stands beside the
    figure rather than in it, a paper's caption.
    """

    sweep: str
    name: str
    stem: str
    answers: bool
    draw: Callable[[], Figure]
    words: Callable[[], str] | None = None


def sketches(results: Results, style: str = "page") -> list[Sketch]:
    """Return everything there is to draw of the results in a style, by sweep, the figures that answer first.

    Raises:
        ValueError: if runs do not compare.
    """
    found = []
    for sweep in results.runs["sweep"].unique():
        of_sweep = replace(results, runs=results.runs[results.runs["sweep"] == sweep])
        found += sorted(_of_sweep(of_sweep, style), key=lambda sketch: not sketch.answers)
    return found


def choose(found: Sequence[Sketch], only: str | Sequence[str] | None, *, every: bool) -> list[Sketch]:
    """Return the sketches that were asked for: those that answer, where nothing is said.

    Args:
        found: what `sketches` returned.
        only: names, stems or patterns of them such as "coords_*", a list or parted by commas; of all that is found.
        every: all of them, not only those that answer.

    Raises:
        ValueError: if a name or pattern is of no figure of these.
    """
    if only is None:
        return [sketch for sketch in found if every or sketch.answers]
    patterns = [part.strip() for part in (only.split(",") if isinstance(only, str) else only) if part.strip()]
    for pattern in patterns or [""]:
        if not any(_is(sketch, pattern) for sketch in found):
            known = ", ".join(dict.fromkeys(sketch.name for sketch in found))
            raise ValueError(f"{pattern!r} is no figure of these results; known: {known}")
    return [sketch for sketch in found if any(_is(sketch, pattern) for pattern in patterns)]


def _is(sketch: Sketch, pattern: str) -> bool:
    return fnmatchcase(sketch.name, pattern) or fnmatchcase(sketch.stem, pattern)


def _of_sweep(results: Results, style: str) -> Iterator[Sketch]:
    """Yield what there is to draw of one sweep's runs."""
    groups = list(results.runs.groupby(["optimizer", "mode"]))
    coords = results.coords[results.coords["run_id"].isin(results.runs["run_id"])]
    for (optimizer, mode), runs in groups:
        tag = f"_{optimizer}_{mode}" if len(groups) > 1 else ""
        group = replace(results, runs=runs, coords=coords)
        for sketch in (*_of_checks(group, style), *_of_lrs(group, style)):
            yield replace(sketch, stem=sketch.stem + tag)


def _of_lrs(results: Results, style: str) -> Iterator[Sketch]:
    """Yield what there is to draw of the learning-rate sweep among the runs of one optimizer and mode."""
    if "lr" not in results.kinds:
        return
    answers = sorted(transfer(results), key=lambda answer: table_order(answer.parametrization))
    if not answers:
        return
    runs = results.runs[results.runs["kind"] == "lr"]
    sweep = answers[0].sweep
    if style == "paper":
        for columns, size in COLUMN_INCHES.items():
            draw_paper = partial(paper_losses.draw_losses, answers, columns, size)
            words = partial(describe_losses, answers)
            yield Sketch(sweep, "loss_vs_lr", f"paper_loss_vs_lr_{columns}", True, draw_paper, words)
        return

    def caption(title: str) -> Caption:
        return _caption(title, runs, confidence=answers[0].drift.confidence)

    def sketch(name: str, shown: bool, draw: Callable[[list[Transfer], Caption], Figure], title: str) -> Sketch:
        return Sketch(sweep, name, name, shown, partial(draw, answers, caption(title)))

    yield sketch("loss_vs_lr", True, draw_losses, "Loss against learning rate")
    yield sketch("optimum_vs_width", True, draw_optima, "Best learning rate against width")
    yield sketch("penalty", penalties_say_something(answers), draw_penalties, "Cost of another width's best lr")
    if any(answer.wider_is_better.comparisons for answer in answers):
        yield sketch("wider_is_better", False, draw_wider, "Is the wider model better at every step?")


def _of_checks(results: Results, style: str) -> Iterator[Sketch]:
    """Yield what there is to draw of the coordinate checks among the runs of one optimizer and mode."""
    if "coord" not in results.kinds:
        return
    runs, coords = results.runs[results.runs["kind"] == "coord"], results.coords
    judgements = sorted(judge(results), key=lambda judgement: table_order(judgement.parametrization))
    judgements = [judgement for judgement in judgements if not judgement.slopes.empty]
    if not judgements:
        return
    sweep, many = judgements[0].sweep, len(judgements) > 1
    if style == "page":
        for judgement in judgements:
            yield _overview(judgement, runs)
    finished = runs.loc[runs["status"] != "failed", ["run_id", "parametrization", "width", "seed"]]
    sizes = coords.merge(finished, on="run_id")
    slopes = pd.concat([judgement.slopes for judgement in judgements])
    for kind, stat in (*COORDINATES, *of_others(set(zip(slopes["kind"], slopes["stat"], strict=True)))):
        of_sizes, of_slopes = (t[(t["kind"] == kind) & (t["stat"] == stat)] for t in (sizes, slopes))
        if of_slopes.empty:
            continue
        end = "" if stat == "rms" else f"_{stat}"
        if stat == SIZE:
            end = ""
        title, name = f"{kind}{', ' + stat if end else ''}: {MEANING[kind]}", f"coords_{kind}{end}"
        answers = (kind, stat) in ANSWERS or kind in (SIZE, *(each for each, _ in ANSWERS if stat == SIZE))
        least = shared_octaves(of_sizes)
        if style == "paper":
            for columns, size in COLUMN_INCHES.items():
                draw = partial(paper_coordinates.draw_coordinates, of_sizes, of_slopes, columns, size, least=least)
                words = partial(describe_coordinates, of_slopes, judgements, columns)
                yield Sketch(sweep, name, f"paper_{name}_{columns}", answers, draw, words)
            continue
        draw = partial(draw_coordinates, of_sizes, of_slopes, _caption(title, runs), least=least)
        yield Sketch(sweep, name, name, answers, draw)
        if many:  # with all of their sites
            for table, each in of_slopes.groupby("parametrization", sort=False):
                stem = f"coords_{_as_file(str(table))}_{kind}{end}"
                caption = _caption(f"{canvas.shorten(str(table), 28)} · {title}", runs)
                mine = of_sizes[of_sizes["parametrization"] == table]
                yield Sketch(sweep, PAGES, stem, False, partial(draw_coordinates, mine, each, caption, least=least))
    if style == "page" and not is_imported(runs) and has_gates(runs, coords):
        gates = fit_gates(runs, coords)
        for judgement in judgements:
            table = judgement.parametrization
            of_table = [gate for gate in gates if gate.parametrization == table]
            if gates_say_something(of_table):
                caption = _caption(f"{canvas.shorten(table, 28)} · gradients of the gates", runs)
                yield Sketch(sweep, "gates", f"gates_{_as_file(table)}", False, partial(draw_gates, of_table, caption))


def _overview(judgement: Judgement, runs: pd.DataFrame) -> Sketch:
    name, verdict = canvas.shorten(judgement.parametrization, 28), canvas.verdict_text(judgement.verdict)
    caption = _caption(f"{name} · slopes of every quantity: {verdict}", runs)
    stem = f"slopes_{_as_file(judgement.parametrization)}"
    draw = partial(draw_slopes, judgement.slopes, judgement.pooled, caption)
    return Sketch(judgement.sweep, "slopes", stem, True, draw)


def _caption(title: str, runs: pd.DataFrame, **options: float) -> Caption:
    return Caption(title, describe_setting(runs), describe_runs(runs, **options))


def _as_file(parametrization: str) -> str:
    """Write a parametrization's name as part of a file's."""
    return quote(parametrization, safe="")
