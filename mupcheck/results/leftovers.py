"""What else lies in a sweep's folder: runs of an earlier spec of the same name, which no reader here counts."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from mupcheck.results.aside import kept_runs
from mupcheck.results.cache import joined, read_held
from mupcheck.results.comparable import lr_text
from mupcheck.results.files import EARLIER
from mupcheck.results.gathering import gather_runs
from mupcheck.results.reading import finished_runs, read_sweep

# What a person tells two specs apart by, and how it is said
SHOWN = {
    "kind": "kind", "parametrization": "table", "optimizer": "optimizer", "mode": "mode", "width": "width",
    "base_width": "base width", "lr": "lr", "seed": "seed", "steps": "steps", "data": "data", "n_layers": "layers",
    "batch_size": "batch", "seq_len": "tokens",
}  # fmt: skip
N_VALUES = 4  # of one field that a line names


def say_leftovers(folder: str | Path) -> str:
    """Say how many runs a sweep's folder holds that its `sweep.json` does not list, and in what they differ.

    Returns:
        One line, "" where there is nothing else, or no `sweep.json` to tell by.

    Raises:
        ValueError: as `read_sweep`.
    """
    if not (Path(folder) / "sweep.json").exists():
        return ""
    wanted = set(read_sweep(folder).get("run_ids", []))
    there = kept_runs(folder)
    if not wanted or not (others := there - wanted):
        return ""
    theirs, ours = (_values(Path(folder), names) for names in (others, there & wanted))
    parts = [_said(field, theirs[field]) for field in SHOWN if theirs[field] and theirs[field] != ours[field]]
    what = ", ".join(parts) or "other settings"
    runs = f"{len(others)} run{'s' * (len(others) > 1)}"
    where = "" if finished_runs(folder) & others else f", set aside in {EARLIER}/"
    return (
        f"{folder} also holds {runs} of an earlier spec ({what}), not part of this sweep and not judged{where}; "
        "give another --name to keep sweeps apart"
    )


def _values(folder: Path, run_ids: set[str]) -> dict[str, set[Any]]:
    """Return the values of SHOWN that runs have; what cannot be read is for `load_results` to say."""
    values: dict[str, set[Any]] = {field: set() for field in SHOWN}
    for place in (folder, folder / EARLIER):
        with suppress(ValueError):
            held = read_held(place, "runs", tell=lambda _: None)
            runs = gather_runs(place, held, wanted=run_ids, bad=lambda _: None)
            for table in joined(run.row for run in runs):
                for field in SHOWN:
                    values[field].update(table[field].unique().to_pylist())
    return values


def _said(field: str, values: set[Any]) -> str:
    shown = sorted(values, key=lambda value: (str(type(value)), value))
    texts = [lr_text(value) if field == "lr" else str(value) for value in shown[:N_VALUES]]
    more = f" and {len(shown) - N_VALUES} more" if len(shown) > N_VALUES else ""
    return f"{SHOWN[field]} {', '.join(texts)}{more}"
