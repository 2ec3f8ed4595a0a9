"""The lr to train a width with: a table for people, one JSON document, or torch's parameter groups to paste."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mupcheck.learning_rates.recommend import Recommendation
from mupcheck.terminal.console import console, number, print_json, styled, table_of

FORMATS = ("table", "json", "python")
# how torch calls its optimizers, and which of a run's settings they take
TORCH = {
    "adamw": "torch.optim.AdamW(groups, betas=({beta1:g}, {beta2:g}))",
    "sgd": "torch.optim.SGD(groups, momentum={momentum:g}, nesterov={nesterov})",
}


@dataclass(frozen=True)
class Page:
    """What is printed of one table: the recommendation, every parameter's values, and what they leave out.

    `parameters` and `multipliers` are as `mupcheck.model.build.applied_values` returns them, None where there is no lr.
    """

    recommendation: Recommendation
    parameters: Sequence[Mapping[str, Any]] | None
    multipliers: Mapping[str, float]
    settings: Mapping[str, Any]  # of the sweep's spec


def print_recommendations(pages: Sequence[Page], form: str) -> None:
    """Print pages in one of FORMATS."""
    if form == "json":
        print_json([_document(page) for page in pages])
    elif form == "python":
        for page in pages:
            print("\n".join(_python(page)))
    else:
        for page in pages:
            _print_page(page)


def _document(page: Page) -> dict[str, Any]:
    return asdict(page.recommendation) | {"parameters": page.parameters, "multipliers": page.multipliers}


def lr_line(found: Recommendation) -> str:
    """Return "lr 0.00361 [0.00247, 0.00529] = 2^-8.11 at width 4096"."""
    ends = ", ".join("?" if end is None else f"{end:.3g}" for end in (found.lr_low, found.lr_high))
    octaves = found.forecast.log2_lr
    if found.lr is None or octaves is None:
        return f"no lr for width {found.width}: {found.forecast.reason}"
    place = f"for width {found.width}: the lr of base width {found.base_width}; each parameter has its own below"
    return f"lr {found.lr:.4g} [{ends}] = 2^{octaves:.2f} {place}"


def _print_page(page: Page) -> None:
    out, found = console(), page.recommendation
    out.print(f"{found.title}:", lr_line(found), soft_wrap=True, style="bold")
    for warning in found.warnings:
        out.print("  WARNING:", warning, soft_wrap=True, style="yellow")
    out.print(f"  {found.sentence}", soft_wrap=True)
    out.print("  cost:", styled(found.cost.verdict), f"as {found.cost.reason}", soft_wrap=True)
    if found.forecast.percent is not None:
        out.print(
            f"  an lr at an end of the interval would cost {found.forecast.percent:.1f}% of the loss", soft_wrap=True
        )
    out.print(f"  from {found.rests_on}", soft_wrap=True)
    if page.parameters is None:
        return
    grid = table_of("parameter", "role", "shape", "init std", "lr", "weight decay", "eps")
    for row in page.parameters:
        values = [number(row[key], ".4g") if row[key] is not None else "-" for key in ("lr", "weight_decay", "eps")]
        grid.add_row(row["site"], row["role"], " x ".join(map(str, row["shape"])), _std(row), *values)
    out.print(grid)
    for line in _rest(page):
        out.print(line, soft_wrap=True)


def _std(row: Mapping[str, Any]) -> str:
    """Write an initial standard deviation; what is not drawn with one is a constant, or starts as at the base width."""
    if row["init_value"] is not None:
        return f"all {row['init_value']:.4g}"
    return "as at base" if row["init_std"] is None else number(row["init_std"], ".4g")


def _rest(page: Page) -> Iterator[str]:
    """Yield what a model needs beside the values of its parameters."""
    sites = ", ".join(f"{site} x {value:.4g}" for site, value in page.multipliers.items() if value != 1) or "none"
    yield f"forward multipliers: {sites}"
    weights = {row["role"]: row["multiplier"] for row in page.parameters or () if row["multiplier"] != 1}
    if weights:
        yield "weights of a role: " + ", ".join(f"{role} x {value:.4g}" for role, value in weights.items())
    of = page.settings
    clip = f", clipping at {of['clip']:g}" if of.get("clip") else ""
    yield (
        f"lr is the top of the schedule: {of.get('schedule', 'constant')}, {of.get('warmup_steps', 0)} of "
        f"{of.get('steps', '?')} steps of warm-up{clip}"
    )


def _python(page: Page) -> Iterator[str]:
    """Yield lines of Python that make torch's parameter groups of a `model`, one for each role and its values."""
    found = page.recommendation
    yield f"# {found.title}: {lr_line(found)}"
    yield from (f"# WARNING: {warning}" for warning in found.warnings)
    yield f"# {found.sentence}"
    yield from (f"# {line}" for line in _rest(page) if page.parameters is not None)
    if page.parameters is None:
        return
    yield "def named(*sites):"
    yield "    return [p for name, p in model.named_parameters() if set(name.split('.')) & set(sites)]"
    yield ""
    yield "groups = ["
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in page.parameters:
        groups.setdefault((row["role"], row["lr"], row["weight_decay"], row["eps"]), []).append(row)
    for (role, lr, decay, eps), rows in groups.items():
        stds = ", ".join(f"{row['site']} {_std(row)}" for row in rows)
        values = f"'lr': {lr!r}, 'weight_decay': {decay!r}" + (f", 'eps': {eps!r}" if eps is not None else "")
        sites = ", ".join(repr(row["site"]) for row in rows)
        yield f"    # {role}: init std {stds}"
        yield f"    {{'params': named({sites}), {values}}},"
    yield "]"
    of = {"beta1": 0.9, "beta2": 0.999, "momentum": 0.0, **page.settings}
    yield "optimizer = " + TORCH[found.optimizer].format(**of, nesterov=of["momentum"] > 0)
