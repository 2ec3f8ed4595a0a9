"""Tables with a column a width, an lr or a run, as tables with a row a loss or a size.

- log2_lr, 128, 256, 512: a column a width; "w=128" and "width 128" are widths too
- width, 2^-10, 2^-8, 2^-6: a column an lr; "lr=0.001" and "1e-3" are lrs too
- step, w128-lr1e-3 - loss, ...: a history as W&B exports it: a column a run, whose name says what it is
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mupcheck.imported.columns import LOSSES, LR, SIZES, STEP, WIDTH, choose, lacking, listed, plain
from mupcheck.imported.files import Source
from mupcheck.imported.values import Column, number_of, texts

OF_WIDTH = re.compile(r"^(?:w|width|d|d_model|dim)?\s*[=_:]?\s*(\d{1,6})$", re.IGNORECASE)
OF_LR = re.compile(r"^(?:lr|log2_lr|learning rate|η|α)?\s*[=:]?\s*([-+]?\d[\d.e+^*/({)}-]*)$", re.IGNORECASE)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
OF_RUN = re.compile(r"^(?P<run>.+) - (?P<what>[^-]+)$")
BOUNDS = re.compile(r"__(MIN|MAX)$")  # what W&B adds beside a smoothed curve
NUMBER = r"(?P<{}>[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?(?:\^[-+]?\d+(?:\.\d+)?)?)"
PARTS = {
    "width": re.compile(rf"(?:^|[^a-z])(?:{'|'.join((*WIDTH, 'w', 'd'))})\s*[=_:-]?\s*" + NUMBER.format("value"), re.I),
    "lr": re.compile(rf"(?:^|[^a-z0-9])(?:{'|'.join(LR['lr'])})\s*[=_:]?\s*" + NUMBER.format("value"), re.I),
    "seed": re.compile(r"(?:^|[^a-z])(?:seed|s)\s*[=_:-]?\s*" + NUMBER.format("value"), re.I),
}


def as_long(source: Source, given: Mapping[str, str]) -> Source:
    """Return a table as it is, or with a row a loss or a size where it has a column a width or a run.

    Args:
        given: columns that the user named, by key.
    Raises:
        ValueError: if a history's runs have names that do not say width and lr.
    """
    if any(
        not lacking(choose(source.names, holds, _there(given, source), source.label), holds) for holds in _few(source)
    ):
        return source
    by_lr = {name: lr for name in source.names if (lr := _lr_of(name)) is not None}
    rest = [name for name in source.names if name not in by_lr]
    if len(by_lr) > 1 and any(plain(name) in WIDTH or name == given.get("width") for name in rest):
        return _by_column(source, "lr", by_lr, "loss", rest)
    widths = {name: float(match[1]) for name in source.names if (match := OF_WIDTH.match(name.strip()))}
    rest = [name for name in source.names if name not in widths]
    if len(widths) > 1 and rest:
        lrs = {*LR["lr"], *LR["log2_lr"], *LR["log10_lr"], *map(plain, (given.get(key, "") for key in LR))} - {""}
        if any(plain(name) in lrs for name in rest):
            return _by_column(source, "width", widths, "loss", rest)
        # names of sizes come first; what follows the widths is made of them
        return _by_column(source, "width", widths, "value", rest[:1])
    runs = {name: match for name in source.names if (match := OF_RUN.match(name)) and not BOUNDS.search(name)}
    if runs and any(plain(name) in STEP for name in source.names):
        return _by_run(source, runs)
    return source


def said_in(name: str) -> dict[str, str]:
    """Return width, lr and seed as a run's name says them: "d_model=128,lr=1e-3,seed=0" or "w128-lr0.001-s1"."""
    return {key: match["value"] for key, part in PARTS.items() if (match := part.search(name))}


def _few(source: Source) -> tuple[str, ...]:
    return (LOSSES, SIZES) if len(source.names) < 10_000 else ()


def _there(given: Mapping[str, str], source: Source) -> dict[str, str]:
    return {key: name for key, name in given.items() if name in source.names}


def _lr_of(name: str) -> float | None:
    """Return the lr that a column's name is, None where it is none: "2^-9", "2⁻⁹", "lr=0.001"."""
    raised = re.sub(r"(?<=\d)(?=[⁰¹²³⁴⁵⁶⁷⁸⁹⁻])(?<![⁰¹²³⁴⁵⁶⁷⁸⁹])", "^", name.strip()).translate(RAISED)
    match = OF_LR.match(raised)
    value = number_of(match[1]) if match else None
    return value if value is not None and 0 < value < 1 else None


def _by_column(source: Source, key: str, values: Mapping[str, float], held: str, rest: Sequence[str]) -> Source:
    """Return a table with a column a width, or an lr, as one with the columns width, lr and loss, or width and value.

    Args:
        key: what a column's name is.
        values: of `key`, by column.
        held: what stands in such a column: loss or value.
        rest: the other columns that are kept; of sizes, the one with their names.
    """
    loaded = source.load([*rest, *values])
    n_rows = len(loaded[rest[0]].data)
    columns: dict[str, Any] = {}
    for name in rest:
        shown = "name" if held == "value" else name
        columns[shown] = pa.chunked_array([chunk for _ in values for chunk in loaded[name].data.chunks])
    columns[key] = pa.array(np.repeat(np.array(list(values.values())), n_rows))
    columns[held] = pa.array(np.concatenate([texts(loaded[name]) for name in values]), type=pa.string())

    def where(row: int) -> str:
        return source.where(row % n_rows) if n_rows else source.label

    return _in_memory(columns, source, where, f"made of a column {'an lr' if key == 'lr' else 'a width'}")


def _by_run(source: Source, runs: Mapping[str, re.Match[str]]) -> Source:
    """Return a history with a column a run as one with the columns width, lr, seed, step, run and the loss's own."""
    whats = list(dict.fromkeys(match["what"].strip() for match in runs.values()))
    losses = [what for what in whats if "loss" in what.lower()]
    if len(losses) > 1 or not (losses or len(whats) == 1):
        raise ValueError(f"{source.label} has runs' columns of {listed(whats)}; export the history of one loss")
    what = losses[0] if losses else whats[0]
    step = next(name for name in source.names if plain(name) in STEP)
    chosen = {name: match["run"] for name, match in runs.items() if match["what"].strip() == what}
    said = {name: said_in(run) for name, run in chosen.items()}
    silent = next((name for name, parts in said.items() if not {"width", "lr"} <= set(parts)), None)
    if silent is not None:
        raise ValueError(
            f"{source.label}: the run's name {chosen[silent]!r} does not say width and lr, as width=128,lr=1e-3,seed=0 "
            "does; export the table of runs (one row a run) with their config instead"
        )
    loaded = source.load([step, *chosen])
    n_rows = len(loaded[step].data)
    columns: dict[str, Any] = {"step": pa.chunked_array([c for _ in chosen for c in loaded[step].data.chunks])}
    for key in ("width", "lr", "seed"):
        if all(key in parts for parts in said.values()):
            columns[key] = pa.array(np.repeat(np.array([parts[key] for parts in said.values()], dtype=object), n_rows))
    columns["run"] = pa.array(np.repeat(np.array(list(chosen.values()), dtype=object), n_rows))
    columns[what] = pa.array(np.concatenate([texts(loaded[name]) for name in chosen]), type=pa.string())

    def where(row: int) -> str:
        return source.where(row % n_rows) if n_rows else source.label

    return _in_memory(columns, source, where, "made of a column a run")


def _in_memory(columns: Mapping[str, Any], source: Source, where: Any, of: str) -> Source:
    def load(names: Sequence[str]) -> dict[str, Column]:
        found = {}
        for name in names:
            data = columns[name]
            data = data if isinstance(data, pa.ChunkedArray) else pa.chunked_array([data])
            found[name] = Column(name, data, where, decimal_comma=True)
        return found

    return Source(source.label, source.stem, tuple(columns), where, load, note=of)
