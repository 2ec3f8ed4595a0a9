"""Faults of stored numbers: results that were right, changed after they were measured."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mupcheck.proof.faults import BASE, Where
from mupcheck.results.reading import Results
from mupcheck.theory.parametrization import TABLES, rules_hash

Edit = Callable[[Results, Where], Results]


def _rows(results: Results, where: Where, kinds: Collection[str] = ()) -> pd.Series:
    """Return which rows of coords a fault is about; diagnostics only where they are named."""
    coords = results.coords
    width = coords["run_id"].map(results.runs.set_index("run_id")["width"])
    rows = coords["kind"].isin(kinds) if kinds else coords["kind"] != "diagnostic"
    rows &= coords["step"] >= (0 if where.step == 1 else where.step)
    if where.sites:
        rows &= coords["site"].isin(where.sites)
    if where.layer is not None:
        rows &= coords["layer"] == where.layer
    return rows & (width == where.width if where.width is not None else True)


def _set(results: Results, values: pd.Series) -> Results:
    return replace(results, coords=results.coords.assign(value=values))


def scaled(results: Results, where: Where, *, factor: float, kinds: Collection[str] = (), seeds: int = 0) -> Results:
    """Multiply sizes; of the first `seeds` seeds only where that is given."""
    rows = _rows(results, where, kinds)
    if seeds:
        first = results.runs[results.runs["seed"].isin(sorted(set(results.runs["seed"]))[:seeds])]
        rows &= results.coords["run_id"].isin(first["run_id"])
    return _set(results, results.coords["value"].mask(rows, results.coords["value"] * factor))


def curved(results: Results, where: Where, *, share: float, kinds: Collection[str]) -> Results:
    """Add a part that grows as m and starts at a share of the size's square."""
    rows = _rows(results, where, kinds) & (results.coords["step"] > 0)
    runs = results.runs.set_index("run_id")
    m = results.coords["run_id"].map(runs["width"] / runs["base_width"])
    grown = results.coords["value"] * np.sqrt((1 + share * m**2) / (1 + share))
    return _set(results, results.coords["value"].mask(rows, grown))


def raised(results: Results, where: Where, *, power: float, kinds: Collection[str]) -> Results:
    """Raise sizes to a power: 2 forgets the root of a mean square."""
    values = results.coords["value"]
    return _set(results, values.mask(_rows(results, where, kinds), values.abs() ** power))


def replaced(results: Results, where: Where, *, by: float, kinds: Collection[str] = (), first: bool = False) -> Results:
    """Put a number in the place of sizes, or of the first one."""
    rows = _rows(results, where, kinds)
    if first:
        rows &= rows.cumsum() == 1
    return _set(results, results.coords["value"].mask(rows, by))


def to_decimals(results: Results, where: Where, *, digits: int) -> Results:
    """Round sizes as text with so many decimals does."""
    values = results.coords["value"]
    return _set(results, values.mask(_rows(results, where), values.round(digits)))


def copied_width(results: Results, where: Where, *, source: int, whole: bool = False) -> Results:
    """Let runs of another width pass for those of `where.width`, `whole` or with their own counts, lr and decay."""
    runs = results.runs
    assert where.width is not None
    mine, theirs = (runs[runs["width"] == width].sort_values("seed") for width in (where.width, source))
    to = dict(zip(mine["run_id"], theirs["run_id"], strict=True))
    return _copied(results, where, to, counts=whole)


def copied_seeds(results: Results, where: Where, *, n_alike: int = 0) -> Results:
    """Give the first `n_alike` seeds the numbers of the first one; all where it is 0."""
    runs = results.runs
    seeds = sorted(set(runs["seed"]))
    first = runs[runs["seed"] == seeds[0]].set_index("width")["run_id"]
    alike = runs[runs["seed"].isin(seeds[1 : n_alike or None])]
    return _copied(results, where, {run.run_id: first[run.width] for run in alike.itertuples()}, counts=True)


def _copied(results: Results, where: Where, to: dict[str, str], *, counts: bool) -> Results:
    """Give runs the rows of others: to[run_id] is the one that it gets."""
    sites = results.coords["site"].isin(where.sites) if where.sites else True
    own = results.coords["stat"].eq("n_values") | results.coords["stat"].str.startswith("realised")
    keep = ~own | counts
    theirs = dict(list(results.coords[sites & keep].groupby("run_id")))
    kept = results.coords[~(results.coords["run_id"].isin(set(to)) & sites & keep)]
    new = [theirs[other].assign(run_id=run_id) for run_id, other in to.items()]
    runs = results.runs
    if counts:
        source = runs.set_index("run_id")["n_params"]
        runs = runs.assign(n_params=runs["run_id"].map(lambda run_id: source[to.get(run_id, run_id)]))
    return replace(results, coords=pd.concat([kept, *new], ignore_index=True), runs=runs)


def exchanged_widths(results: Results, where: Where, *, other: int) -> Results:
    """Exchange the numbers of two widths."""
    runs = results.runs.sort_values("seed")
    a, b = (list(runs.loc[runs["width"] == width, "run_id"]) for width in (where.width, other))
    return _copied(results, where, dict(zip(a + b, b + a, strict=True)), counts=False)


def exchanged_seeds(results: Results, where: Where) -> Results:
    """Exchange the numbers of two seeds at each width."""
    to: dict[str, str] = {}
    for _, of_width in results.runs.sort_values("seed").groupby("width"):
        a, b = of_width["run_id"].iloc[:2]
        to |= {a: b, b: a}
    return _copied(results, where, to, counts=False)


def exchanged(results: Results, _: Where, *, column: str, a: object, b: object) -> Results:
    """Exchange two steps, layers, sites or kinds in all rows."""
    names = results.coords[column]
    return replace(results, coords=results.coords.assign(**{column: names.replace({a: b, b: a})}))


def dropped(results: Results, where: Where, *, kinds: Collection[str] = ()) -> Results:
    """Leave rows of coords out."""
    return replace(results, coords=results.coords[~_rows(results, where, kinds)])


def doubled(results: Results, where: Where) -> Results:
    """Store rows of coords twice, the second time with other values."""
    again = results.coords[_rows(results, where)]
    return replace(results, coords=pd.concat([results.coords, again.assign(value=again["value"] * 1.5)]))


def run_dropped(results: Results, _: Where, *, n_runs: int = 1) -> Results:
    """Lose runs."""
    return replace(results, runs=results.runs.iloc[n_runs:])


def column_set(results: Results, where: Where, *, column: str, value: object) -> Results:
    """Let runs, of one width or all, have another value in a column."""
    rows = results.runs["width"] == where.width if where.width is not None else results.runs["width"] > 0
    return replace(results, runs=results.runs.assign(**{column: results.runs[column].mask(rows, value)}))


def shuffled(results: Results, _: Where) -> Results:
    """Return the rows of each table in another order."""
    runs, coords, steps = (
        table.iloc[::-1].reset_index(drop=True) for table in (results.runs, results.coords, results.steps)
    )
    return replace(results, runs=runs, coords=coords, steps=steps)


def as_base(results: Results, _: Where) -> Results:
    """Let runs that followed another table pass for runs of the base table: the code does not follow its table."""
    run = results.runs.iloc[0]
    hashed = rules_hash(TABLES[BASE], optimizer=run["optimizer"], mode=run["mode"])
    return replace(results, runs=results.runs.assign(parametrization=BASE, rules_hash=hashed))


# --- losses ----------------------------------------------------------------------------------------------------------


def loss_edited(results: Results, where: Where, *, edit: Callable[[pd.Series], Sequence[float]]) -> Results:
    """Change the losses of each run, of one width or all; they come in the order of steps."""
    width = results.steps["run_id"].map(results.runs.set_index("run_id")["width"])
    steps = results.steps.copy()
    for _, rows in steps[width == where.width if where.width is not None else width > 0].groupby("run_id"):
        ordered = rows.sort_values("step")
        steps.loc[ordered.index, "loss"] = np.asarray(edit(ordered["loss"]), dtype=float)
    return replace(results, steps=steps)


def rising(losses: pd.Series) -> pd.Series:
    """Turn the losses round about the first one."""
    return 2 * losses.iloc[0] - losses


def standing(losses: pd.Series) -> pd.Series:
    """Keep the first loss."""
    return losses * 0 + losses.iloc[0]


def not_a_number(losses: pd.Series) -> pd.Series:
    """Lose the last loss."""
    return losses.where(losses.index != losses.index[-1])


def in_bits(losses: pd.Series) -> pd.Series:
    """Give losses in bits and not in nats."""
    return losses / np.log(2)
