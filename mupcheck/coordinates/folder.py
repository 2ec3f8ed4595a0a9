"""The judgement on the coordinate checks in a folder, made once for all who ask while no file there changes."""

from collections.abc import Collection
from pathlib import Path

from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.results.owners import FOLDER as CLAIMS
from mupcheck.results.reading import Results, load_results, read_sweep

Mark = tuple[str, tuple[str, ...] | None, tuple[tuple[str, int, int], ...]]
_kept: list[tuple[Mark, Results, list[Judgement]]] = []


def judge_folder(folder: str | Path, *, run_ids: Collection[str] | None = None) -> tuple[Results, list[Judgement]]:
    """Return the results of a sweep's folder and what `judge` says of them.

    A top-up judges after each round, and the answer is what it saw last: loading and judging is a second that need
    not be spent twice. What is kept is of one folder, and is made again where a file's time or size is another.

    Args:
        folder: the sweep's.
        run_ids: of the runs to judge (default: those that its `sweep.json` lists).
    Raises:
        ValueError: as `load_results` and `judge`.
    """
    mark = _mark(Path(folder), run_ids)
    if not _kept or _kept[0][0] != mark:
        results = load_results(folder, run_ids=run_ids, coded=True)
        _kept[:] = [(mark, results, judge(results))]
    return _kept[0][1:]


def _mark(folder: Path, run_ids: Collection[str] | None) -> Mark:
    if run_ids is not None and set(run_ids) == set(read_sweep(folder).get("run_ids", ())):
        run_ids = None
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.parent.name != CLAIMS)
    states = ((str(file.relative_to(folder)), file.stat()) for file in files)
    wanted = None if run_ids is None else tuple(sorted(run_ids))
    return str(folder.resolve()), wanted, tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)
