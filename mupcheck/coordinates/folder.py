"""The judgement on the coordinate checks in a folder, made once for all who ask while no file there changes."""

from pathlib import Path

from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.results.reading import Results, load_results

Mark = tuple[str, tuple[tuple[str, int, int], ...]]
_kept: list[tuple[Mark, Results, list[Judgement]]] = []


def judge_folder(folder: str | Path) -> tuple[Results, list[Judgement]]:
    """Return the results of a sweep's folder and what `judge` says of them.

    A top-up judges after each round, and the answer is what it saw last: loading and judging is a second that need
    not be spent twice. What is kept is of one folder, and is made again where a file's time or size is another.

    Raises:
        ValueError: as `load_results` and `judge`.
    """
    mark = _mark(Path(folder))
    if not _kept or _kept[0][0] != mark:
        results = load_results(folder)
        _kept[:] = [(mark, results, judge(results))]
    return _kept[0][1:]


def _mark(folder: Path) -> Mark:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    states = ((str(file.relative_to(folder)), file.stat()) for file in files)
    return str(folder.resolve()), tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)
