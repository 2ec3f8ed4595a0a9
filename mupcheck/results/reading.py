"""Reading sweeps back: every run checked against the hashes in its row.

A run is three Parquet files: `steps/<run_id>.parquet` and `coords/<run_id>.parquet`, then one row in
`runs/<run_id>.parquet`. The row is written last, so its presence means that the run is whole, and it carries the
hashes of all three, so a changed byte does not become a changed number. What a run is, is in columns and never in
file metadata: who reads many Parquet files as one table keeps only the first file's metadata.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mupcheck.results.cache import joined, read_held
from mupcheck.results.checked import MAX_ROWS as MAX_ROWS
from mupcheck.results.checked import MOVE, PARTS, Damaged, Piece
from mupcheck.results.coding import NAMES, in_order, with_codes
from mupcheck.results.files import EARLIER, one_line
from mupcheck.results.gathering import gather_parts, gather_runs, run_files
from mupcheck.results.overview import overview_rows, overview_text
from mupcheck.results.printing import counted, lines_of, said
from mupcheck.results.stores.address import is_address
from mupcheck.results.tables import SCHEMA_VERSION, SCHEMAS
from mupcheck.results.writing import sweep_sha256_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ANEW = "run the sweep again, which writes it anew, or delete it"
SAME_COMMAND = "run the same command again"
TO_COMPLETE = "; to complete it: "  # between what is missing and what to do


@dataclass(frozen=True, eq=False)  # tables have no one truth to compare by
class Results:
    """What `load_results` found, one row per run, step or quantity; a table not asked for has columns and no rows.

    A run that two sweeps share has a row in runs for each, and its steps and coords once: a merge doubles nothing.
    sweeps holds each sweep's `sweep.json`, by the name in the column `sweep`, where there is one.
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    coords: pd.DataFrame
    sweeps: dict[str, dict[str, Any]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of the runs: "coord", "lr" or both."""
        return tuple(sorted(set(self.runs["kind"]))) if "kind" in self.runs else ()

    def plot(self, name: str | None = None) -> Figure:
        """Draw one figure, which a notebook shows: the one that answers, or the one that is named.

        Args:
            name: of a figure as `mupcheck explain figures` lists them, such as "penalty"; "demo/penalty" where several
                sweeps have it (default: loss_vs_lr of learning rates, coords_effective_update of a coordinate check).

        Raises:
            ValueError: if there is no such figure, or several; the message names those that there are.
        """
        # By name, as pandas finds what it plots with. Figures are a floor above this one: an import would be a way up,
        # and a method that the roof puts here would be missing wherever it did not pass.
        figure: Figure = import_module("mupcheck.plots.inline").draw_one(self, name)
        return figure

    def __repr__(self) -> str:
        """Say what is there: a line or two for each sweep."""
        return lines_of(f"<Results: {self._size()}>", overview_text(self.runs, lambda sweep: n_missing(self, sweep)))

    def _repr_html_(self) -> str:
        import pandas as pd

        table = pd.DataFrame(overview_rows(self.runs))
        table["missing"] = [n_missing(self, sweep) for sweep in table.get("sweep", ())]
        return f"<p>Results: {self._size()}</p>\n{table.to_html(index=False)}"

    def _size(self) -> str:
        tables = {"run": self.runs, "step row": self.steps, "coord row": self.coords}
        return ", ".join(counted(len(table), what) for what, table in tables.items())


OF_KIND = {"coord": ("a coordinate check", "judge()"), "lr": ("a learning-rate sweep", "transfer()")}


def need_results(given: object, asked: str, *, kind: str) -> Results:
    """Return what was given, if it is results with runs of a kind.

    Args:
        asked: the function that needs them, as in messages: "judge()".
        kind: "coord" or "lr".
    Raises:
        ValueError: if it is anything else; the message says what the function takes.
    """
    if not isinstance(given, Results):
        name = asked.removesuffix("()")
        hint = f"; try {name}(load_results({str(given)!r}))" if isinstance(given, str | Path) else ""
        raise ValueError(f"{asked} takes what load_results() returns, not {said(given)}{hint}")
    other = next((found for found in given.kinds if found != kind), None)
    if other is not None and kind not in given.kinds:
        what, where = OF_KIND.get(other, (f"runs of kind {other!r}", "nothing here"))
        raise ValueError(f"{asked} takes {OF_KIND[kind][0]}, and these results are {what}; {where} judges that")
    vouched = given.runs.get("coords_sha256")
    if kind == "coord" and given.coords.empty and vouched is not None and vouched.notna().any():
        raise ValueError(f"{asked} needs the table coords, and these results were loaded without it; load all of them")
    return given


def n_missing(results: Results, sweep: str) -> int:
    """Return how many runs a sweep asked for that are not there, of whatever parametrization."""
    there = results.runs.loc[results.runs["sweep"] == sweep, "run_id"]
    return len(set(results.sweeps.get(sweep, {}).get("run_ids", ())) - set(there))


def say_incomplete(results: Results, sweep: str, *, command: str = "") -> str:
    """Say how many of a sweep's runs are missing and what completes it, "" where all are there.

    Args:
        command: the one that trains what is missing (default: the one that trained the sweep, where it is known).
    """
    if not (lacking := n_missing(results, sweep)):
        return ""
    missing = say_missing(lacking, sweep, planned=n_planned(results, sweep)) + _say_failed(results, sweep)
    return missing + TO_COMPLETE + (command or str(results.sweeps[sweep].get("command") or SAME_COMMAND))


def _say_failed(results: Results, sweep: str) -> str:
    """Say how many of the runs that are missing could not be trained, and why the first could not; "" where none is."""
    there = set(results.runs.loc[results.runs["sweep"] == sweep, "run_id"])
    reasons = [
        each.get("reason", "") for each in results.sweeps[sweep].get("failed", ()) if each["run_id"] not in there
    ]
    if not reasons:
        return ""
    return f", {len(reasons)} of them failed ({str(reasons[0]).replace('; ', ', ')})"


def say_missing(n_runs: int, sweep: str, *, planned: int = 0) -> str:
    """Say how many runs of a sweep are missing, of how many where it is known."""
    of = f" of {planned}" if planned else ""
    one = n_runs == 1
    return f"{n_runs}{of} run{'s' * (not one or planned > 1)} of {sweep} {'is' if one else 'are'} missing"


def n_planned(results: Results, sweep: str) -> int:
    """Return how many runs a sweep asked for, 0 where that is not known."""
    return len(set(results.sweeps.get(sweep, {}).get("run_ids", ())))


def finished_runs(folder: str | Path) -> set[str]:
    """run_ids of the whole runs in a sweep's folder, by file name alone; none where there is no folder yet."""
    whole = set()
    for run_id, listed in run_files(Path(folder)).items():
        with suppress(FileNotFoundError):  # another writer is just replacing it
            if listed.stat().st_size > 0:
                whole.add(run_id)
    return whole


# Reading


def read_sweep(folder: str | Path) -> dict[str, Any]:
    """What `write_sweep` wrote.

    Raises:
        Damaged: if it is not a JSON object as `write_sweep` writes them, or not as it was written.
        ValueError: if there is no `sweep.json` in folder, or it is of a newer mupcheck.
    """
    path = Path(folder) / "sweep.json"
    try:
        resolved = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"{path} is damaged ({one_line(error)})", ANEW) from error
    if not isinstance(resolved, dict) or not isinstance(resolved.get("run_ids", []), list):
        what = f"{path} is not what mupcheck writes, a JSON object with a list of run_ids"
        raise Damaged(path, what, MOVE)
    # a file of an earlier version has neither
    seal = resolved.pop("sha256", None)
    if (seal is not None or "schema_version" in resolved) and seal != sweep_sha256_of(resolved):
        raise Damaged(path, f"{path} is not as it was written: it does not match its hash", ANEW)
    version = resolved.pop("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {version}, this mupcheck reads {SCHEMA_VERSION}; update it")
    return resolved


def load_results(
    path: str | Path,
    *,
    tables: Collection[str] = ("runs", "steps", "coords"),
    run_ids: Collection[str] | None = None,
    coded: bool = False,
) -> Results:
    """Read every whole run under path, a folder of sweeps or one sweep's folder.

    Each file is checked against the hash in its run's row: what is returned is what was written. Null becomes NaN,
    in columns of integers pandas' NA. Times are UTC. Where `sweep.json` lists `run_ids`, the sweep is these: runs that
    an earlier spec of the same name left in its folder stay there, and are used again when they are asked for again.

    Args:
        path: `results/`, or one sweep's folder in it, or the address of either in a store, such as s3://bucket/results.
        tables: what to return of runs, steps and coords; runs are read in any case, the others only if asked for.
        run_ids: of the runs to read (default: those that `sweep.json` lists).
        coded: return the names in coords as pandas categories, in the order of the alphabet, instead of as text: for
            millions of rows, which load and are judged quicker so, and take a third of the memory.

    Raises:
        ValueError: if there are no runs under path, a file is damaged, missing, foreign or from a newer mupcheck, or
            a run is there twice; the message names the file.
        StoreError: if path is an address and does not answer.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"load_results() takes the path of a folder, such as 'results/lr', not {said(path)}")
    if is_address(path):
        from mupcheck.results.stores.pull import pull_results

        path, lines = pull_results(path)
        for line in lines:
            warnings.warn(line, stacklevel=2)
    tables = (tables,) if isinstance(tables, str) else tables
    if unknown := set(tables) - set(SCHEMAS):
        raise ValueError(f"unknown table {min(unknown)!r}; known: {', '.join(SCHEMAS)}")
    found, sweeps, notes = read_tables(Path(path), tables=tables, run_ids=run_ids, codes=NAMES if coded else {})
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Results(**{name: _to_frame(name, found[name]) for name in SCHEMAS}, sweeps=sweeps)


def read_tables(
    path: Path,
    *,
    tables: Collection[str],
    run_ids: Collection[str] | None = None,
    codes: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[dict[str, pa.Table], dict[str, dict[str, Any]], list[str]]:
    """Return the tables that `load_results` turns into frames, each sweep's `sweep.json`, and what is to be noted.

    Args:
        path, tables, run_ids: as of `load_results`.
        codes: by table, columns of text that are to be dictionaries.
    Raises:
        ValueError: as `load_results`.
    """
    found: dict[str, dict[tuple[str, ...], Piece]] = {name: {} for name in SCHEMAS}
    files: dict[tuple[str, ...], Path] = {}
    sweeps: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for folder in sweep_folders(path):
        resolved = read_sweep(folder) if (folder / "sweep.json").exists() else None
        wanted = set(resolved["run_ids"]) if resolved and "run_ids" in resolved else None
        wanted = wanted if run_ids is None else set(run_ids)
        held = {
            name: read_held(folder, name, tell=notes.append, codes=codes.get(name, ()))
            for name in SCHEMAS
            if name in ("runs", *tables)
        }
        for run in gather_runs(folder, held["runs"], wanted=wanted):
            run_id, sweep = run.said["run_id"], run.said["sweep"]
            if files.setdefault((sweep, run_id), run.file) != run.file:
                raise ValueError(
                    f"{run.file} and {files[sweep, run_id]} are the same run; if one folder is a copy, move it away"
                )
            asked = {name: held[name] for name in PARTS if name in tables and (run_id,) not in found[name]}
            if (gathered := gather_parts(run, asked)) is None:
                continue
            found["runs"][sweep, run_id] = gathered[0].row
            for name, (piece, _) in gathered[1].items():
                found[name][run_id,] = piece
            if resolved is not None:
                sweeps[sweep] = resolved
    if not found["runs"]:
        raise ValueError(f"{path}: no run of the sweep in its sweep.json is finished; run the same sweep again")
    whole = {}
    for name, parts in found.items():
        pieces = joined(parts.values()) or [SCHEMAS[name].empty_table()]
        whole[name] = pa.concat_tables(with_codes(pieces, codes[name]) if name in codes else pieces)
    return whole, sweeps, notes


def sweep_folders(path: Path) -> list[Path]:
    """The folders that hold runs: path itself, or else those directly in it."""
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}; give the folder that --out named, or run a sweep first")
    try:
        folders = [path] if run_files(path) else [child for child in sorted(path.iterdir()) if run_files(child)]
        if (path / "sweep.json").exists():
            folders = [folder for folder in folders if folder.name != EARLIER]
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error
    if not folders:
        raise ValueError(f"no runs under {path}: no runs/*.parquet and no */runs/*.parquet; run a sweep first")
    return folders


def _to_frame(name: str, table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    for field in SCHEMAS[name]:
        if pa.types.is_dictionary(table.schema.field(field.name).type):
            frame[field.name] = in_order(frame[field.name])
            continue
        # null in every sweep that was imported, whatever the schema says of those that mupcheck trained
        nullable = field.nullable or frame[field.name].isna().any()
        if nullable and pa.types.is_integer(field.type):
            frame[field.name] = frame[field.name].astype("Int64")  # else int or float, as the sweep happens to be
    return frame
