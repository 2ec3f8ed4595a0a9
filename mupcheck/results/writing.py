"""Writing a sweep: `sweep.json`, and each run whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mupcheck.results.files import one_line, write_whole
from mupcheck.results.tables import IMPORTED, SCHEMA_VERSION, SCHEMAS

if TYPE_CHECKING:
    pass

# Writing


def write_sweep(folder: str | Path, resolved: Mapping[str, Any]) -> None:
    """Write `sweep.json`, whole or not at all, in place of one that is there.

    Raises:
        ValueError: if resolved holds what JSON cannot (NaN and infinities included).
        StoreError: if the file cannot be written.
    """
    path = Path(folder) / "sweep.json"
    document = {**resolved, "schema_version": SCHEMA_VERSION}
    try:
        document["sha256"] = sweep_sha256_of(json.loads(json.dumps(document)))
        text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not possible as JSON: {error}") from error
    write_whole([(path, text.encode() + b"\n")])


def sweep_sha256_of(document: Mapping[str, Any]) -> str:
    """Hash of what a `sweep.json` holds, sha256 apart."""
    values = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_run(
    folder: str | Path,
    run: Mapping[str, Any],
    steps: Mapping[str, Sequence[Any]],
    coords: Mapping[str, Sequence[Any]] | None = None,
    *,
    imported: bool = False,
) -> None:
    """Write one run into a sweep's folder, whole or not at all, in place of an earlier result of the same run.

    Args:
        folder: the sweep's; made where it is missing.
        run: the columns of runs. Nullable ones may be left out; schema_version and the hashes are set here.
        steps: the columns of steps, equally long lists or 1-D arrays; run_id is set here. None is stored as null;
            NaN and infinities are values and stay.
        coords: likewise the columns of coords; None for a run that has none.
        imported: others measured it, so that all columns but OF_IMPORTED may be left out.

    Raises:
        ValueError: for an unknown or missing column, or a value that its column cannot hold; nothing is written.
        StoreError: if a file cannot be written; nothing half-written is left under a final name.
    """
    run_id = run["run_id"]
    row = {**run, "schema_version": SCHEMA_VERSION, "coords_sha256": None, "row_sha256": ""}
    files = []
    for name, columns in (("steps", steps), ("coords", coords)):
        if columns is None:
            continue
        if strangers := set(columns.get("run_id", ())) - {run_id}:
            raise ValueError(f"{name} of run {run_id} hold rows of another run: {min(strangers)}")
        table = _to_table(name, {**columns, "run_id": [run_id] * len(columns.get("step", ()))})
        data = _to_parquet(table)
        row[f"{name}_sha256"] = hashlib.sha256(data).hexdigest()
        files.append((Path(folder) / name / f"{run_id}.parquet", data))
    table = _to_table("runs", {name: [value] for name, value in row.items()}, IMPORTED if imported else None)
    # Hashed as converted to the column types, which is how a reader meets it.
    seal = pa.array([row_sha256_of(table.to_pylist()[0])])
    table = table.set_column(table.num_columns - 1, table.schema.field("row_sha256"), seal)
    files.append((Path(folder) / "runs" / f"{run_id}.parquet", _to_parquet(table)))
    write_whole(files)


def _to_table(name: str, columns: Mapping[str, Sequence[Any]], schema: pa.Schema | None = None) -> pa.Table:
    """Columns as a table of SCHEMAS[name], or of another schema; no value is rounded, cut off or made up."""
    schema = SCHEMAS[name] if schema is None else schema
    unknown = [column for column in columns if column not in schema.names]
    missing = [field.name for field in schema if not field.nullable and field.name not in columns]
    if unknown or missing:
        raise ValueError(f"{name}: unknown columns {unknown}, missing columns {missing}; known: {schema.names}")
    n_rows = len(columns["run_id"])
    arrays = []
    for field in schema:
        try:
            # Inferred first: pa.array(values, type=...) turns 1.5 into the integer 1 without a word.
            array = pa.array(columns.get(field.name, [None] * n_rows))
            is_text = pa.types.is_string(array.type)
            if not pa.types.is_null(array.type) and is_text != pa.types.is_string(field.type):
                raise ValueError(f"given {array.type}")
            if pa.types.is_timestamp(array.type) and array.type.tz is None:
                raise ValueError("given a time without its zone")
            array = array.cast(field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name}.{field.name}, expected {field.type}: {one_line(error)}") from error
        if len(array) != n_rows or (array.null_count and not field.nullable):
            raise ValueError(
                f"{name}.{field.name}: {len(array)} rows, {array.null_count} null; expected {n_rows}, none"
            )
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # With zstd, or a dictionary for every column, the one row of a run takes three times as long to read.
    repeated = ["run_id", "site", "kind", "stat"]
    pq.write_table(table, sink, compression="snappy", use_dictionary=repeated, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def row_sha256_of(row: Mapping[str, Any]) -> str:
    """Hash of a row of runs, row_sha256 apart; columns that a later version adds are in it."""
    values = {name: value for name, value in row.items() if name != "row_sha256"}
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()
