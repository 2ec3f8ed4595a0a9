"""Tables of the page: rules of parametrizations side by side, parameters of a user's model, what gates speak for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mupcheck.coordinates.gates import gates_of
from mupcheck.coordinates.given import Given, settings_given
from mupcheck.coordinates.own import shown
from mupcheck.results.comparable import find_rules
from mupcheck.theory.parametrization import MULTIPLIER_SITES, Role, Table, write_exponent

SETTINGS = {"lr": "lr", "weight_decay": "weight decay", "eps": "eps"}
RULE = {"init": "init std", "lr": "lr", "multiplier": "multiplier", "eps": "eps"}  # fields of a rule, as they are named


@dataclass(frozen=True)
class Grid:
    """A table of text; `marked` are the rows that a reader should see, with what is said of them in the last column."""

    caption: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int]


def rules_grid(runs: pd.DataFrame, tables: Mapping[str, Any], names: Sequence[str]) -> Grid | None:
    """Return the exponents of m that the runs of one optimizer and mode followed, a column a parametrization.

    Rows in which all exponents are 0 are left out. None where no table is known, as of models of a user's own.

    Args:
        runs: of one sweep, optimizer and mode.
        tables: of its sweep.json.
        names: of the parametrizations, in order.
    """
    found = {name: find_rules(runs[runs["parametrization"] == name], tables) for name in names}
    known = {name: table for name, table in found.items() if table is not None}
    if not known:
        return None
    setting = {"optimizer": runs["optimizer"].iloc[0], "mode": runs["mode"].iloc[0]}
    lines = [(what, [value(table) for table in known.values()]) for what, value in _exponents(**setting)]
    lines = [(what, values) for what, values in lines if any(values)]
    differ = frozenset(i for i, (_, values) in enumerate(lines) if len(set(values)) > 1)
    rows = tuple(
        (what, *map(write_exponent, values), "differs" if i in differ else "") for i, (what, values) in enumerate(lines)
    )
    return Grid(
        caption="Rules",
        about="Exponents of m = width / base width; what is not listed has exponent 0 in all of them.",
        head=("of", *known, ""),
        rows=rows,
        marked=differ,
    )


def _exponents(*, optimizer: str, mode: str) -> Iterator[tuple[str, Any]]:
    """Yield every exponent that a table has, as a name and a function of the table."""
    for role in Role:
        for field, said in RULE.items():

            def value(table: Table, role: Role = role, field: str = field) -> float:
                return getattr(table.rule(role, optimizer=optimizer, mode=mode), field)

            yield f"{role}, {said}", value
    for site in MULTIPLIER_SITES:
        yield f"multiplier on {site}", lambda table, site=site: table.multiplier(site, mode=mode)


def parameters_grid(runs: pd.DataFrame, coords: pd.DataFrame, parameters: Sequence[Mapping[str, Any]]) -> Grid | None:
    """Return the parameters of an audited model with their roles and what its optimizer gave them; None without any.

    Args:
        runs: of one sweep.
        parameters: of its sweep.json, () where it has none, as of an earlier mupcheck: then names stand alone.
    """
    given = settings_given(runs, coords)
    if not given:
        return None
    sites = dict.fromkeys(site for site, _ in given)
    known = list(parameters) or [{"site": site} for site in sites]
    # what is tied, or frozen, may be described and not recorded
    rows = tuple(
        (
            *(shown(str(row["site"])), str(row.get("rows", "")), *_growth(row), str(row.get("role") or "?")),
            *(_written(given.get((str(row["site"]), field))) for field in SETTINGS),
        )
        for row in known
    )
    widths = ", ".join(str(width) for width in sorted(set(runs["width"])))
    return Grid(
        caption="Parameters",
        about="Of alike layers in one row. In and out: powers of width by which a matrix's fan-in and a parameter's "
        f"fan-out grow; role: as mupcheck roles tells it; then what the optimizer gave it at widths {widths}.",
        head=("parameter", "rows", "count", "in", "out", "role", *SETTINGS.values()),
        rows=rows,
        marked=frozenset(),
    )


def _growth(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Write how often a parameter is there and how it grows, blanks where that is not known."""
    if "growth" not in row:
        return "", "", ""
    fan_in, fan_out = (write_exponent(round(2 * power) / 2) for power in row["growth"])
    return str(row["count"]), fan_in if row["matrix"] else "", fan_out


def _written(given: Given | None) -> str:
    """Write a setting: one value where it is the same at every width, else its power of m and all values."""
    if given is None:
        return "not recorded"
    values = [f"{value:.3g}" for value in given.by_width.values()]
    if len(set(values)) == 1:
        return values[0]
    power = "" if given.exponent is None else f"m^{write_exponent(round(given.exponent, 2) + 0.0)}: "
    return power + ", ".join(values)


def gates_grid(runs: pd.DataFrame, coords: pd.DataFrame) -> Grid | None:
    """Return how the gates' gradients grow with width, over layers, and what that speaks for; None without any."""
    coords = coords[coords["run_id"].isin(runs["run_id"])] if len(coords) else coords
    gates = gates_of(runs, coords, pooled=True) if len(coords) else []
    if not gates:
        return None
    rows = tuple(
        (
            *(gate.parametrization, gate.site, "later" if gate.step else "0"),
            f"{gate.slope:+.2f} [{gate.ci_low:+.2f}, {gate.ci_high:+.2f}]",
            gate.reading,
        )
        for gate in gates
    )
    return Grid(
        caption="Gates",
        about="Exponent of the gates' gradients with its interval, relative to the gradient that enters the mixer.",
        head=("table", "gate", "step", "exponent", "speaks for"),
        rows=rows,
        marked=frozenset(),
    )
