"""A table of losses as runs: one row for each parametrization, width, lr and seed, whatever form it came in.

A log of steps is read at the last step of each run. A loss that is NaN or infinite is a diverged run; where nothing
stands the run counts as missing, as one that crashed does.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.imported.columns import HELD_OUT, SHARED
from mupcheck.imported.table import Loaded, need_whole, rows_text
from mupcheck.results.comparable import UNKNOWN, UNNAMED
from mupcheck.results.printing import counted

LOSSES = ("val_loss", "train_loss")
STATUSES = {
    **dict.fromkeys(("ok", "finished", "completed", "complete", "done", "success", "succeeded"), "ok"),
    **dict.fromkeys(("diverged", "nan", "exploded"), "diverged"),
    **dict.fromkeys(("failed", "crashed", "killed", "running", "oom", "error", "preempted", "canceled"), "failed"),
    **dict.fromkeys(("cancelled", "stopped", "pending", "preempting", "timeout", "aborted"), "failed"),
}
CELL = ["parametrization", "optimizer", "mode", "width", "log2_lr", "seed"]
UNSAID = {"parametrization": UNNAMED, "optimizer": UNKNOWN, "mode": UNKNOWN}
MAX_WIDTH = 2**31 - 1
MOST_OCTAVES = 300  # an lr of 2^-300 is a number that was meant otherwise


def runs_of_losses(table: Loaded, sweep: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of a table of losses, with the columns that matter, and what to say of how it was read.

    Raises:
        ValueError: if a cell cannot be, or two rows are of one run; the message names row and column.
    """
    frame = pd.DataFrame({"width": whole(table, "width"), "log2_lr": _log2_lrs(table)})
    for name, unsaid in UNSAID.items():
        frame[name] = words_of(table, name, unsaid)
    frame["seed"] = seeds_of(table)
    said: list[str] = []
    losses = _loss_columns(table, frame)
    state = _statuses(table)
    frame["state"] = "ok" if state is None else state
    shared = {name: setting_of(table, name) for name in SHARED if name in table.columns}
    for name, values in shared.items():
        frame[name] = values
    by_run = _run_of(table, frame)
    if by_run is not None:
        frame = _filled(table, frame, by_run)
    needed = {"width": frame["width"], table.key_of_lr: frame["log2_lr"]}
    needed |= {"seed": frame["seed"]} if "seed" in table.columns else {}
    need_whole(table, {key: values.to_numpy() for key, values in needed.items()})
    if by_run is not None:
        frame, told = _last_steps(table, frame, losses, by_run)
        said += told
    frame = _with_status(frame, losses)
    frame, told = _one_each(table, frame)
    said += told
    frame, told = _comparable(table, frame, list(shared))
    said += told
    said += _left_out(table, frame)
    frame["width"], frame["seed"] = frame["width"].astype(np.int64), frame["seed"].astype(np.int64)
    frame = frame.assign(lr=[2.0**x for x in frame["log2_lr"]], kind="lr", sweep=sweep)
    if "lr" in table.columns:  # as it was given, to the last bit
        frame["lr"] = table.numbers("lr").values[frame["row"].to_numpy()]
    frame["run_id"] = run_ids(frame, [*CELL, *losses, "status"])
    return frame.drop(columns=["row", "state", "unsaid", "run"], errors="ignore").reset_index(drop=True), said


def whole(table: Loaded, key: str) -> NDArray[np.float64]:
    """Return positive whole numbers, NaN where nothing stands."""
    values, empty = table.numbers(key)
    wrong = ~empty & ~((values > 0) & (values == np.floor(values)) & (values <= MAX_WIDTH))
    if wrong.any():
        row = int(wrong.argmax())
        table.column(key).fault(row, f"{key} {values[row]:g} is not a whole number above 0")
    return values


def _log2_lrs(table: Loaded) -> NDArray[np.float64]:
    """Return log2 of the learning rates, by the same function that a sweep of mupcheck takes."""
    key = table.key_of_lr
    values, empty = table.numbers(key)
    if key != "lr":
        wrong = ~empty & ~(np.abs(values) < MOST_OCTAVES)
        if wrong.any():
            row = int(wrong.argmax())
            table.column(key).fault(row, f"{key} {values[row]:g} is no logarithm of a learning rate")
        return values if key == "log2_lr" else values * math.log2(10)
    wrong = ~empty & ~((values > 0) & np.isfinite(values))
    if wrong.any():
        row = int(wrong.argmax())
        name = table.column(key).name
        hint = f"; if these are log2 of it, say --columns log2_lr={name}" if values[row] < 0 else ""
        table.column(key).fault(row, f"lr {values[row]:g} is not above 0{hint}")
    distinct, inverse = np.unique(np.where(empty, 1.0, values), return_inverse=True)
    logs = np.array([math.log2(lr) for lr in distinct])[inverse]
    return np.where(empty, np.nan, logs)


def words_of(table: Loaded, key: str, unsaid: str) -> Any:
    """Return a column as text, `unsaid` where nothing stands or there is no such column."""
    if key not in table.columns:
        return unsaid
    words = table.texts(key)
    return np.where(words == None, unsaid, words)  # noqa: E711  elementwise


def seeds_of(table: Loaded) -> NDArray[np.float64]:
    """Return seeds as numbers; names of seeds are numbered as they sort, and no column of them is one seed."""
    if "seed" not in table.columns:
        return np.zeros(table.n_rows)
    try:
        values, empty = table.numbers("seed")
    except ValueError:
        words = table.texts("seed")
        known = sorted({str(word) for word in words if word is not None})
        places = {word: float(i) for i, word in enumerate(known)}
        return np.array([places.get(word, np.nan) for word in words])
    wrong = ~empty & ~((values == np.floor(values)) & (np.abs(values) < 2**53))
    if wrong.any():
        table.column("seed").fault(int(wrong.argmax()), f"seed {values[int(wrong.argmax())]:g} is not a whole number")
    return values


def _loss_columns(table: Loaded, frame: pd.DataFrame) -> list[str]:
    """Put val_loss and train_loss into a frame, with a mark where nothing stood; return which there are."""
    for key in ("val_loss", "train_loss", "loss"):
        if key not in table.columns:
            continue
        name = key
        if key == "loss":
            name = "val_loss" if HELD_OUT.search(table.columns["loss"]) else "train_loss"
        values, empty = table.numbers(key)
        frame[name], frame[f"{name} empty"] = values, empty
    return [name for name in LOSSES if name in frame]


def _statuses(table: Loaded) -> NDArray[Any] | None:
    """Return ok, diverged or failed; None where nothing is said."""
    if "status" not in table.columns:
        return None
    words = table.texts("status")
    distinct = {
        word: STATUSES.get(str(word).lower(), "") if word is not None else "ok" for word in dict.fromkeys(words)
    }
    if strange := next((word for word, status in distinct.items() if not status), None):
        row = int((words == strange).argmax())
        known = "ok, finished; diverged; failed, crashed, killed, running"
        table.column("status").fault(row, f"{strange!r} is no status; known: {known}")
    return np.array([distinct[word] for word in words])


def setting_of(table: Loaded, key: str) -> Any:
    """Return a setting that runs share as numbers where it is some, else as text."""
    try:
        return table.numbers(key).values
    except ValueError:
        return table.texts(key)


# --- logs of steps ----------------------------------------------------------------------------------------------------


def _run_of(table: Loaded, frame: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return which run each row is of, where a table has several rows a run; None where a row is a run."""
    if "step" not in table.columns:
        return None
    if "run" in table.columns:
        words = table.texts("run")
        named = frame.assign(run=np.where(words == None, "", words))  # noqa: E711  elementwise
        # names need not be unique, but what a log says once, or in some rows alone, is of the run
        whole_ = frame[["width", "log2_lr", "seed"]].notna().all(axis=None)
        return np.asarray(named.groupby(["run", *CELL] if whole_ else "run", sort=False).ngroup())
    if frame["width"].isna().any() or frame["log2_lr"].isna().any():
        return np.zeros(len(frame), dtype=np.int64)  # the log of one run, which says once what it is
    return np.asarray(frame.groupby(CELL, dropna=False, sort=False).ngroup())


def _filled(table: Loaded, frame: pd.DataFrame, by_run: NDArray[np.int64]) -> pd.DataFrame:
    """Return rows with what a run says of itself in one of them alone, as a log may."""
    for name in ("width", "log2_lr", "seed"):
        if frame[name].isna().any():
            frame[name] = frame.groupby(by_run)[name].transform("first")
    if frame["seed"].isna().any():
        table.column("seed").fault(int(frame["seed"].isna().argmax()), "no seed")
    several = frame.groupby(by_run)[["width", "log2_lr", "seed"]].nunique().max(axis=1) > 1
    if several.any():
        rows = np.flatnonzero(by_run == several.idxmax())[:2]
        raise ValueError(
            f"{rows_text(table, rows)} are of one run and differ in width, lr or seed; name its column of runs"
        )
    return frame


def _last_steps(
    table: Loaded, frame: pd.DataFrame, losses: Sequence[str], by_run: NDArray[np.int64]
) -> tuple[pd.DataFrame, list[str]]:
    """Return a row for each run: its losses at the last step that has one; short runs are marked as failed."""
    steps, none = table.numbers("step")
    if none.any():
        table.column("step").fault(int(none.argmax()), "no step")
    frame = frame.assign(step=steps, run=by_run, at=np.arange(len(frame)))
    last = frame.sort_values(["run", "step"], kind="stable").groupby("run", sort=False).tail(1).set_index("run")
    kept = last.copy()
    ends = pd.Series(-np.inf, index=kept.index)
    for name in losses:
        logged = frame[~frame[f"{name} empty"]]
        twice = logged.duplicated(["run", "step"], keep=False)
        if twice.any():
            rows = logged[twice].sort_values(["run", "step"], kind="stable")
            pair = rows[rows.groupby(["run", "step"])[name].transform("nunique", dropna=False) > 1]
            if len(pair):
                raise ValueError(
                    f"{rows_text(table, pair['at'].to_numpy()[:2])} have two losses of one step of one run; "
                    f"name what tells them apart, such as --columns run=COLUMN or seed=COLUMN"
                )
        at = logged.loc[logged.groupby("run")["step"].idxmax()].set_index("run")
        kept[name] = at[name].reindex(kept.index)
        kept[f"{name} empty"] = ~kept.index.isin(at.index)
        ends = pd.Series(np.fmax(ends, at["step"].reindex(kept.index)), index=kept.index)
    by_width = ends.groupby(kept["width"]).transform("max")
    finite = np.isfinite(kept[list(losses)].to_numpy(dtype=float)).any(axis=1)
    short = (ends < by_width) & finite & np.isfinite(ends) & (kept["state"] == "ok")
    kept.loc[short, "state"] = "failed"
    said = []
    if short.any():
        run = kept[short].iloc[0]
        said.append(
            f"{counted(int(short.sum()), 'run')} ended before the others of the same width and left out, such as width "
            f"{run['width']:g}, lr 2^{run['log2_lr']:.4g}, at step {ends[short].iloc[0]:,.0f} of "
            f"{by_width[short].iloc[0]:,.0f}"
        )
    lasts = by_width.groupby(kept["width"]).max()
    if "steps" not in kept:
        kept["steps"] = by_width.where(np.isfinite(by_width))
    table.told["last step"] = f"{lasts.iloc[0]:,.0f}" if lasts.nunique() == 1 else "that differs with width"
    kept["row"] = kept["at"]
    return kept.drop(columns=["at", "step"]).reset_index(drop=True), said


# --- one row a run ----------------------------------------------------------------------------------------------------


def _with_status(frame: pd.DataFrame, losses: Sequence[str]) -> pd.DataFrame:
    """Return runs with their status: a loss that is not finite diverged, one that is not there is missing."""
    name = next((name for name in losses if not frame[f"{name} empty"].all()), losses[0])
    finite, empty = np.isfinite(frame[name].astype(float)), frame[f"{name} empty"].astype(bool)
    status = np.where(~finite & ~empty, "diverged", np.where(empty, "failed", "ok"))
    status = np.where((frame["state"] == "failed") & (status == "ok"), "failed", status)
    status = np.where(frame["state"] == "diverged", "diverged", status)
    if "row" not in frame:
        frame = frame.assign(row=np.arange(len(frame)))
    return frame.assign(status=status, unsaid=empty).drop(columns=[f"{each} empty" for each in losses])


def _one_each(table: Loaded, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return one row a run: of one that was started again after it failed, the one that finished.

    Raises:
        ValueError: if two rows are of one run.
    """
    twice = frame.duplicated(CELL, keep=False)
    if not twice.any():
        return frame, []
    lost = twice & (frame["status"] == "failed")
    kept = pd.concat([frame[~lost], frame[lost].drop_duplicates(CELL)])
    kept = kept[~(kept.duplicated(CELL, keep=False) & (kept["status"] == "failed"))]
    again = kept[kept.duplicated(CELL, keep=False)]
    if len(again):
        pair = again.sort_values([*CELL, "row"], kind="stable").head(2)
        first = pair.iloc[0]
        cell = f"width {first['width']:g}, lr {2.0 ** first['log2_lr']:.6g}"
        cell += f", seed {first['seed']:g}" if "seed" in table.columns else ""
        raise ValueError(
            f"{rows_text(table, pair['row'].to_numpy())} are both {cell}{table.apart(pair['row'].to_numpy())}"
        )
    n = len(frame) - len(kept)
    return kept.sort_values("row"), [
        f"{counted(n, 'run')} that did not finish left out, as another of the same cell did"
    ]


def _comparable(table: Loaded, frame: pd.DataFrame, shared: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return runs with the settings that they share; those that change with width alone are said and put aside."""
    said = []
    for name in dict.fromkeys((*shared, "steps")):
        if name not in frame:
            continue
        values = frame[name]
        values = values.where(frame["status"] != "failed") if name == "steps" else values
        if values.nunique() <= 1:
            frame[name] = _plain(values.dropna().iloc[0]) if values.notna().any() else np.nan
            continue
        if frame["width"].nunique() > 1 and values.groupby(frame["width"]).nunique().max() <= 1:
            by_width = values.groupby(frame["width"]).first()
            ends = " and ".join(f"{_plain(by_width.iloc[i])} at {by_width.index[i]:g}" for i in (0, -1))
            said.append(f"{name} changes with width ({ends}), so that a drift is not of width alone")
            frame = frame.drop(columns=name)
            continue
        at = [int(frame.loc[values == value, "row"].iloc[0]) for value in values.dropna().unique()[:2]]
        seen = " and ".join(str(value) for value in values.dropna().unique()[:2])
        column = table.columns.get(name, name)
        raise ValueError(
            f"{rows_text(table, np.array(at))} differ in {column} ({seen}), so their losses do not compare; take one "
            f"with --where {column}=VALUE, or make it the parametrization: --columns parametrization={column}"
        )
    return frame, said


def _plain(value: Any) -> Any:
    """Return a whole number as one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _left_out(table: Loaded, frame: pd.DataFrame) -> list[str]:
    """Say which runs have no loss, or diverged."""
    said = []
    diverged, failed = (frame["status"] == "diverged"), (frame["status"] == "failed")
    if diverged.any():
        said.append(
            f"{counted(int(diverged.sum()), 'run')} diverged (a loss that is not finite, or a status that says so)"
        )
    none = failed & frame["unsaid"]
    if none.any():
        rows = rows_text(table, frame.loc[none, "row"].to_numpy()[:3])
        said.append(
            f"{counted(int(none.sum()), 'run')} without a loss left out ({rows}); write nan for one that diverged"
        )
    lost = failed & ~frame["unsaid"]
    if lost.any() and "status" in table.columns:
        said.append(f"{counted(int(lost.sum()), 'run')} that did not finish left out")
    return said


def run_ids(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return a hash of what each run is and what came of it, as its file's name."""
    rows: list[Mapping[str, Any]] = frame[list(columns)].to_dict("records")
    return [hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()[:16] for row in rows]
