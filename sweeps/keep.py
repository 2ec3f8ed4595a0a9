"""Keep what a sweep measured, small enough for a repository, and lay it out again.

    python sweeps/keep.py results/NAME [--rows 96]     writes sweeps/kept/NAME.tar.xz
    python sweeps/keep.py --lay-out results/kept       unpacks all of sweeps/kept, each as a sweep's folder

Every run's row is kept whole, and every size of a coordinate check. Of a run's steps so many rows are, evenly spread,
beside the first, the last and all with a held-out loss, so that whether wider is better, step by step, is told from
these. What is laid out is read, judged and drawn as any results are.
"""

import argparse
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mupcheck.results.reading import read_tables
from mupcheck.results.writing import write_run, write_sweep

KEPT = Path(__file__).with_name("kept")
ROWS = 96
SEALS = ("schema_version", "steps_sha256", "coords_sha256", "row_sha256")  # which writing sets anew


def keep(folder: Path, out: Path, *, rows: int = ROWS) -> Path:
    """Write one sweep's results as an archive in `out`, and return it; the same results give the same bytes.

    Args:
        folder: the sweep's.
        rows: of a run's steps, about.
    Raises:
        ValueError: if there are no runs, or one is damaged.
        StoreError: if it cannot be written.
    """
    tables, sweeps, _ = read_tables(folder, tables=("steps", "coords"))
    parts = {name: dict(_by_run(tables[name].to_pydict())) for name in ("steps", "coords")}
    file = out / f"{folder.name}.tar.xz"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        small = Path(place, folder.name)
        for row in tables["runs"].to_pylist():
            steps = _thinned(parts["steps"][row["run_id"]], rows)
            write_run(
                small,
                {name: value for name, value in row.items() if name not in SEALS},
                steps,
                parts["coords"].get(row["run_id"]),
            )
        for resolved in sweeps.values():
            write_sweep(small, resolved)
        with tarfile.open(file, "w:xz") as archive:
            for each in sorted(path for path in small.rglob("*") if path.is_file()):
                about = tarfile.TarInfo(each.relative_to(place).as_posix())
                data = each.read_bytes()
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    return file


def lay_out(kept: Path, out: Path) -> Iterator[Path]:
    """Unpack every archive in `kept` into `out`; yield the folder of each sweep."""
    for file in sorted(kept.glob("*.tar.xz")):
        with tarfile.open(file) as archive:
            archive.extractall(out, filter="data")
        yield out / file.name.removesuffix(".tar.xz")


def _by_run(columns: Mapping[str, list[Any]]) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Yield the columns of each run, whose rows lie together."""
    run_ids = np.array(columns["run_id"])
    bounds = [0, *(np.flatnonzero(run_ids[1:] != run_ids[:-1]) + 1).tolist(), len(run_ids)]
    for start, stop in pairwise(bounds if len(run_ids) else ()):
        yield run_ids[start], {name: values[start:stop] for name, values in columns.items() if name != "run_id"}


def _thinned(steps: Mapping[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    """Return about so many rows of steps, the first, the last and those with a held-out loss among them."""
    n_rows = len(steps["step"])
    wanted = set(np.linspace(0, n_rows - 1, min(rows, n_rows)).round().astype(int).tolist())
    wanted |= {i for i, value in enumerate(steps["val_loss"]) if value is not None}
    return {name: [values[i] for i in sorted(wanted)] for name, values in steps.items()}


def main() -> None:
    """Keep the sweeps that are named, and lay out what is kept where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="sweeps' folders")
    parser.add_argument("--rows", type=int, default=ROWS, help="of a run's steps, about")
    parser.add_argument("--lay-out", type=Path, metavar="OUT", help="unpack what is kept into this folder")
    given = parser.parse_args()
    for folder in given.folders:
        file = keep(folder, KEPT, rows=given.rows)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    if given.lay_out:
        for folder in lay_out(KEPT, given.lay_out):
            print(folder)


if __name__ == "__main__":
    main()
