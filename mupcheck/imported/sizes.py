"""A table of sizes as runs and coords: one run for each parametrization, width and seed."""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.imported.columns import SHARED, STATS, plain
from mupcheck.imported.losses import STATUSES, UNSAID, run_ids, seeds_of, setting_of, whole, words_of
from mupcheck.imported.table import Loaded, need_whole, rows_text

KINDS = (
    *("activation", "activation_update", "activation_grad", "weight", "weight_update", "weight_grad"),
    *("effective_update", "diagnostic"),
)
MOST = 2**31  # of a step or layer
SIZE = "size"  # kind and stat of what a table does not say
LAYER = re.compile(r"(^|[._/])(\d+)([._/]|$)")
QUANTITY = ["kind", "stat", "site", "layer", "step"]


def tables_of_sizes(table: Loaded, sweep: str) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return runs and coords of a table of sizes, and what to say of how it was read.

    Raises:
        ValueError: if a cell cannot be, or two rows are of one size of one run.
    """
    said: list[str] = []
    values, empty = table.numbers("value")
    if empty.any():
        table.column("value").fault(int(empty.argmax()), "nothing stands where the size should")
    frame = pd.DataFrame({"width": whole(table, "width"), "value": values})
    need_whole(table, {"width": frame["width"].to_numpy()})
    for name, unsaid in UNSAID.items():
        frame[name] = words_of(table, name, unsaid)
    frame["seed"] = seeds_of(table)
    need_whole(table, {"seed": frame["seed"].to_numpy()} if "seed" in table.columns else {})
    stat = STATS.get(plain(table.columns["value"]), SIZE)
    frame["stat"] = words_of(table, "stat", stat)
    frame["kind"] = _kinds(table, said)
    frame["step"] = _steps(table, frame["kind"], said)
    names = table.texts("name")
    if (none := np.asarray(names == None)).any():  # noqa: E711  elementwise
        table.column("name").fault(int(none.argmax()), "no name")
    if "layer" in table.columns:
        frame["site"], frame["layer"] = names, _whole_or(table, "layer", -1)
    else:
        frame["site"], frame["layer"] = _layers(names, said)
    statuses = table.texts("status") if "status" in table.columns else np.full(len(frame), "ok", dtype=object)
    frame["status"] = [STATUSES.get(str(word).lower(), "ok") for word in statuses]
    key = ["parametrization", "optimizer", "mode", "width", "seed"]
    frame["run"] = frame.groupby(key, sort=False).ngroup()
    twice = frame.duplicated(["run", *QUANTITY], keep=False)
    if twice.any():
        first = frame[twice].sort_values(["run", *QUANTITY], kind="stable").head(2)
        row = first.iloc[0]
        rows = first.index.to_numpy()
        raise ValueError(
            f"{rows_text(table, rows)} are both {row['site']}, width {row['width']:g}, step {row['step']}"
            f"{table.apart(rows)}"
        )
    runs = frame.drop_duplicates("run")[[*key, "run", "status"]].reset_index(drop=True)
    worst = frame.groupby("run")["status"].agg(lambda words: "ok" if set(words) == {"ok"} else sorted(set(words))[0])
    runs["status"] = runs["run"].map(worst)
    for name in ("lr", *SHARED):
        if name in table.columns:
            runs[name] = runs["run"].map(_shared(table, name, frame))
    runs = runs.astype({"width": np.int64, "seed": np.int64}).assign(kind="coord", sweep=sweep)
    sums = frame.groupby("run")["value"].agg(["sum", "count"])
    ids = run_ids(runs.assign(sum=runs["run"].map(sums["sum"]), n=runs["run"].map(sums["count"])), [*key, "sum", "n"])
    runs["run_id"] = ids
    coords = frame[[*QUANTITY, "value"]].assign(run_id=np.array(ids, dtype=object)[frame["run"].to_numpy()])
    return runs.drop(columns="run"), coords, said


def _kinds(table: Loaded, said: list[str]) -> Any:
    """Return the kind of each size; of what a table calls l1 or l2 of a module, activation, as muP's tools do."""
    if "kind" in table.columns:
        words = table.texts("kind")
        known = {word: str(word).lower().replace(" ", "_").replace("-", "_") for word in set(words) if word is not None}
        for word, kind in known.items():
            if kind not in KINDS:
                row = int((words == word).argmax())
                table.column("kind").fault(row, f"{word!r} is no kind of size; known: {', '.join(KINDS)}")
        return np.array([known.get(word, SIZE) for word in words], dtype=object)
    if plain(table.columns["name"]) == "module" and plain(table.columns["value"]) in ("l1", "l2"):
        said.append("sizes of modules are taken for activations")
        return "activation"
    said.append("no column kind: nothing is required of these sizes but what --require says, such as '*=0'")
    return SIZE


def _steps(table: Loaded, kinds: pd.Series, said: list[str]) -> NDArray[np.int64]:
    """Return the step of each size; where nothing is said, 0, and 1 of a change, which no step has not made yet."""
    if "step" in table.columns:
        return _whole_or(table, "step", 0)
    changes = kinds.str.endswith("_update").to_numpy()
    said.append("no column step: " + ("updates are of a step after 0" if changes.any() else "sizes are of step 0"))
    return changes.astype(np.int64)


def _whole_or(table: Loaded, key: str, unsaid: int) -> NDArray[np.int64]:
    if key not in table.columns:
        return np.full(table.n_rows, unsaid, dtype=np.int64)
    values, empty = table.numbers(key)
    values = np.where(empty, float(unsaid), values)
    wrong = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < MOST))
    if wrong.any():
        row = int(wrong.argmax())
        table.column(key).fault(row, f"{key} {values[row]:g} is not a whole number")
    return values.astype(np.int64)


def _layers(names: NDArray[Any], said: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return names without the number of their layer, and that number, -1 where there is none."""
    sites, layers, example = {}, {}, ""
    for name in dict.fromkeys(names):
        match = LAYER.search(name)
        layers[name] = int(match[2]) if match else -1
        sites[name] = LAYER.sub(r"\1*\3", name, count=1) if match else name
        example = example or (name if match else "")
    if example:
        said.append(f"layers from names: {example} is layer {layers[example]} of {sites[example]}")
    return (
        np.array([sites[name] for name in names], dtype=object),
        np.array([layers[name] for name in names], dtype=np.int64),
    )


def _shared(table: Loaded, key: str, frame: pd.DataFrame) -> pd.Series:
    """Return a setting of each run, which all rows of it have.

    Raises:
        ValueError: if two rows of one run differ in it.
    """
    values = setting_of(table, key)
    by_run = pd.Series(values).groupby(frame["run"].to_numpy())
    several = by_run.nunique() > 1
    if several.any():
        rows = np.flatnonzero(frame["run"] == several.idxmax())
        other = rows[np.flatnonzero(pd.Series(values)[rows].to_numpy() != values[rows[0]])[0]]
        raise ValueError(f"{rows_text(table, [rows[0], other])} are of one run and differ in {table.columns[key]}")
    return by_run.first()
