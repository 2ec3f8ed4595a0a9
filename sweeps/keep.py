"""Keep what a sweep measured, small enough for a repository, and lay it out again.

    python sweeps/keep.py results/NAME [--rows 96]                  writes sweeps/kept/NAME.tar.xz
    python sweeps/keep.py results/NAME --seeds 8 --tables gdn-mup   of a large check, and its sweep.json says the same
    python sweeps/keep.py --lay-out results/kept                    unpacks all of sweeps/kept, each as a sweep's folder

Every run's row is kept whole. Of a run's steps so many rows are, evenly spread, beside the first, the last and all with
a held-out loss, so that whether wider is better, step by step, is told from these. Of a coordinate check every size is
kept to its last bit, by which seeds and widths that repeat others are told: rounded to 13 bits, a sound check fails. An
archive holds a table of each kind; laid out, it is read, judged and drawn as any results are, and what it holds is not
trained again.
"""

import argparse
import io
import lzma
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mupcheck.results.files import one_line, write_whole
from mupcheck.results.reading import read_sweep, read_tables
from mupcheck.results.writing import write_run, write_sweep

KEPT = Path(__file__).with_name("kept")
ROWS = 96
SEALS = ("schema_version", "steps_sha256", "coords_sha256", "row_sha256")  # which writing sets anew
# Like lies by like, for xz to find.
ORDERS = {
    "runs": ("run_id",),
    "steps": ("run_id", "step"),
    "coords": ("kind", "stat", "site", "layer", "step", "run_id"),
}


def keep(folder: Path, out: Path, *, rows: int = ROWS, seeds: int | None = None, names: Sequence[str] = ()) -> Path:
    """Write one sweep's results as an archive in `out`, and return it; the same results give the same bytes.

    Args:
        folder: the sweep's.
        rows: of a run's steps, about.
        seeds: how many of the sweep's seeds, the first ones; all without. With it or `names` the sweep that is kept is
            a smaller one, of these seeds and tables.
        names: of the tables whose runs are kept; all without.
    Raises:
        ValueError: if there are no such seeds, tables or runs, or no `sweep.json`, or one is damaged.
    """
    sweep = read_sweep(folder)  # of several sweeps there is none
    tables, _, _ = read_tables(folder, tables=("steps", "coords"))
    document = (folder / "sweep.json").read_bytes()
    if seeds is not None or names:
        tables, document = _smaller(folder, tables, sweep, seeds, names)
    tables["steps"] = _thinned(tables["steps"], rows)
    parts = {f"{name}.parquet": _to_parquet(tables[name], order) for name, order in ORDERS.items()}
    file = out / f"{folder.name}.tar.xz"
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:xz", preset=9) as archive:
        for name, data in {"sweep.json": document, **parts}.items():
            about = tarfile.TarInfo(f"{folder.name}/{name}")
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file


def lay_out(kept: Path, out: Path) -> Iterator[Path]:
    """Unpack every archive in `kept` into `out`, in place of runs that are there; yield the folder of each sweep.

    Raises:
        ValueError: if an archive is damaged; nothing of it is written.
        StoreError: if it cannot be written.
    """
    for file in sorted(kept.glob("*.tar.xz")):
        folder = out / file.name.removesuffix(".tar.xz")
        sweep, tables = _read(file, folder.name)
        write_whole([(folder / "sweep.json", sweep)])
        parts = {name: _by_run(tables[name]) for name in ("steps", "coords")}
        for row in tables["runs"].to_pylist():
            steps, coords = (parts[name].get(row["run_id"]) for name in parts)
            run = {name: value for name, value in row.items() if name not in SEALS}
            write_run(folder, run, _columns(steps), None if coords is None else _columns(coords))
        yield folder


def _smaller(
    folder: Path, tables: dict[str, pa.Table], sweep: dict[str, Any], seeds: int | None, names: Sequence[str]
) -> tuple[dict[str, pa.Table], bytes]:
    """Return the rows of some seeds and tables, and the `sweep.json` of a sweep that asked for no more.

    Runs that are missing stay asked for, whatever their seed and table, as no row says what they are.
    """
    spec, of = dict(sweep["spec"]), tables["runs"]
    if unknown := [name for name in names if name not in spec["parametrizations"]]:
        raise ValueError(f"{folder} has no table {unknown[0]}; it has {', '.join(spec['parametrizations'])}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds is {seeds}; give how many of the first seeds to keep, such as 8")
    spec["parametrizations"] = [name for name in spec["parametrizations"] if not names or name in names]
    more: dict[str, list[int]] = spec.get("seeds_of") or {}
    of_table = {name: (more[name] if name in more else spec["seeds"])[:seeds] for name in spec["parametrizations"]}
    spec["seeds"] = spec["seeds"][:seeds]
    spec["seeds_of"] = {name: kept for name, kept in of_table.items() if kept != spec["seeds"]}
    spec["expect"] = {name: each for name, each in (spec.get("expect") or {}).items() if name in of_table}
    asked = {(name, seed) for name, kept in of_table.items() for seed in kept}
    cells = zip(of["parametrization"].to_pylist(), of["seed"].to_pylist(), strict=True)
    chosen = pa.array([cell in asked for cell in cells])
    ids, left_out = of.filter(chosen)["run_id"], set(of.filter(pc.invert(chosen))["run_id"].to_pylist())
    if not len(ids):
        raise ValueError(f"{folder} has no runs of these seeds and tables yet")
    planned = [each for each in zip(sweep["run_ids"], sweep["widths"], strict=True) if each[0] not in left_out]
    run_ids, widths = map(list, zip(*planned, strict=True))
    with tempfile.TemporaryDirectory() as place:
        write_sweep(place, sweep | {"spec": spec, "run_ids": run_ids, "widths": widths})
        document = (Path(place) / "sweep.json").read_bytes()
    return {name: table.filter(pc.is_in(table["run_id"], ids)) for name, table in tables.items()}, document


def _to_parquet(table: pa.Table, order: tuple[str, ...]) -> bytes:
    """Return a sorted table as Parquet that leaves packing to xz, which finds more in bytes that lie by their kind."""
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    numbers = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.sort_by([(name, "ascending") for name in order]),
        sink,
        compression="none",
        use_dictionary=texts,
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
    )
    return sink.getvalue().to_pybytes()


def _read(file: Path, name: str) -> tuple[bytes, dict[str, pa.Table]]:
    """Return the `sweep.json` and the tables of an archive."""
    try:
        with tarfile.open(file) as archive:
            held = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            data = {place: each.read() for place, each in held.items() if each is not None}
        tables = {table: pq.read_table(io.BytesIO(data[f"{name}/{table}.parquet"])) for table in ORDERS}
        return data[f"{name}/sweep.json"], tables
    except (tarfile.TarError, lzma.LZMAError, EOFError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}); write it again with sweeps/keep.py") from error


def _columns(table: pa.Table) -> dict[str, Any]:
    """Return columns for `write_run`: arrays, but lists where a value is null, which a float array would make NaN."""
    return {
        name: table[name].to_pylist() if table[name].null_count else table[name].to_numpy()
        for name in table.column_names
    }


def _by_run(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each run."""
    table = table.take(pc.sort_indices(table["run_id"]))  # which keeps the order of equal ones
    counts = table["run_id"].value_counts().to_pylist()
    starts = np.cumsum([0, *(each["counts"] for each in counts)])
    return {each["values"]: table.slice(start, each["counts"]) for each, start in zip(counts, starts, strict=False)}


def _thinned(steps: pa.Table, rows: int) -> pa.Table:
    """Return about so many rows of each run's steps, the first, the last and those with a held-out loss among them."""
    wanted = []
    for of in _by_run(steps).values():
        n_rows = len(of)
        chosen = np.zeros(n_rows, dtype=bool)
        chosen[np.linspace(0, n_rows - 1, min(rows, n_rows)).round().astype(int)] = True
        chosen |= of["val_loss"].is_valid().to_numpy(zero_copy_only=False)
        wanted.append(of.filter(pa.array(chosen)))
    return pa.concat_tables([steps.slice(0, 0), *wanted])


def main() -> None:
    """Keep the sweeps that are named, and lay out what is kept where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="sweeps' folders")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a run's steps, about")
    parser.add_argument("--seeds", type=int, help="how many seeds, the first ones (default: all)")
    parser.add_argument("--tables", nargs="+", default=(), metavar="NAME", help="whose runs (default: all)")
    parser.add_argument("--lay-out", type=Path, metavar="OUT", help="unpack what is kept into this folder")
    given = parser.parse_args()
    try:
        for folder in given.folders:
            file = keep(folder, KEPT, rows=given.rows, seeds=given.seeds, names=given.tables)
            print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
        if given.lay_out:
            for folder in lay_out(KEPT, given.lay_out):
                print(folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
