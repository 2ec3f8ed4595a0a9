"""A portion of a sweep as a file, for processes on other machines: groups of runs, and which of them are one task.

It holds the runs themselves, tables included, so that who reads it needs neither the options nor the files that the
sweep was asked for with, and checks each run's id: another version of mupcheck, which would train other numbers, is
refused rather than believed. A portion is written once and never changed.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from mupcheck.results.files import one_line, write_text
from mupcheck.results.reading import finished_runs
from mupcheck.results.version import version
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.path import PathTask
from mupcheck.theory.parametrization import table_from_json, table_to_json

FOLDER = "work"  # of a sweep's folder: one folder in it a portion
JOB = "job"  # of a portion: the number that Slurm gave it
ABANDONED = 3600.0  # seconds after which a portion that was never written, or by whom nobody knows, is nobody's
Part = tuple[Any, ...]  # a group of runs, or the one task to compare their backend


@dataclass(frozen=True)
class Portion:
    """Groups of a sweep that are handed out, in tasks.

    Attributes:
        folder: the sweep's.
        key: the portion's name, of which there is no other.
        sweep: the sweep's name.
        groups: what to train, and the task to compare the backend, if it is one of these.
        tasks: indices into groups, of each task.
        asks: a hash of what the sweep trains, as `asks_of` returns it.
    """

    folder: Path
    key: str
    sweep: str
    groups: tuple[Part, ...]
    tasks: tuple[tuple[int, ...], ...]
    asks: str = ""

    @property
    def place(self) -> Path:
        """Return the portion's own folder."""
        return self.folder / FOLDER / self.key

    def report(self, index: int) -> Path:
        """Return the file that says how a group ended."""
        return self.place / f"{index}.json"

    def task_of(self, index: int) -> int:
        """Return the task that a group is in."""
        return next(task for task, indices in enumerate(self.tasks) if index in indices)


def write_portion(portion: Portion) -> None:
    """Write a portion into its folder.

    Raises:
        StoreError: if it cannot be written.
    """
    groups = [list(group[0].groups) if isinstance(group[0], PathTask) else [group] for group in portion.groups]
    runs = {run.run_id: run for parts in groups for part in parts for run in part}
    document = {
        "mupcheck": version(),
        "sweep": portion.sweep,
        "tables": {run.parametrization: table_to_json(run.table) for run in runs.values()},
        "runs": {run_id: run.model_dump(mode="json", exclude={"table"}) for run_id, run in runs.items()},
        "groups": [
            {
                "runs": [[run.run_id for run in part] for part in parts],
                **({"again": group[0].again} if isinstance(group[0], PathTask) else {}),
            }
            for group, parts in zip(portion.groups, groups, strict=True)
        ],
        "tasks": portion.tasks,
        "asks": portion.asks,
    }
    write_text(portion.place / "plan.json", json.dumps(document, allow_nan=False) + "\n")


def read_portion(folder: Path, key: str) -> Portion:
    """Return the portion that `write_portion` wrote.

    Raises:
        ValueError: if it is not there, is damaged, or this mupcheck would train other runs than the one that wrote it.
    """
    file = folder / FOLDER / key / "plan.json"
    try:
        document = json.loads(file.read_bytes())
        written_by = document["mupcheck"]
        tables = {name: table_from_json(name, rules) for name, rules in document["tables"].items()}
        runs = {
            run_id: RunSpec(**_typed(fields), table=tables[fields["parametrization"]])
            for run_id, fields in document["runs"].items()
        }
        groups = tuple(_group(entry, runs) for entry in document["groups"])
        tasks = tuple(tuple(task) for task in document["tasks"])
        found = Portion(folder, key, document["sweep"], groups, tasks, str(document.get("asks", "")))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; run the sweep's command again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what this mupcheck ({version()}) writes ({one_line(error)})") from error
    for run_id, run in runs.items():
        if run.run_id != run_id:
            raise ValueError(
                f"{file} was written by mupcheck {written_by}, and this one ({version()}) would train other runs; let "
                "both be the same"
            )
    return found


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run with tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _group(entry: Mapping[str, Any], runs: Mapping[str, RunSpec]) -> Part:
    parts: Sequence[Part] = [tuple(runs[run_id] for run_id in part) for part in entry["runs"]]
    return (PathTask(tuple(parts), again=entry["again"]),) if "again" in entry else parts[0]


def read_report(portion: Portion, index: int) -> list[str] | None:
    """Return the errors of a group that ended, [] where it ended well, None where nothing is said yet."""
    try:
        said = json.loads(portion.report(index).read_bytes())["errors"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [str(error) for error in said]


def write_report(portion: Portion, index: int, errors: Sequence[str]) -> None:
    """Write how a group ended.

    Raises:
        StoreError: if it cannot be written.
    """
    write_text(portion.report(index), json.dumps({"errors": list(errors)}) + "\n")


def forget_done(folder: Path, alive: Collection[str] | None = None) -> None:
    """Remove the portions of a sweep's folder whose runs are all there, and what is left of some.

    Args:
        folder: the sweep's.
        alive: keys of portions with a task in Slurm's queue, which stay; None where nobody asked, so that all of
            Slurm's do.
    """
    there = finished_runs(folder)
    with suppress(OSError):
        for place in (folder / FOLDER).iterdir():
            if not place.is_dir() or ((place / JOB).exists() and (alive is None or place.name in alive)):
                continue
            try:
                done = set(json.loads((place / "plan.json").read_bytes())["runs"]) <= there
            except FileNotFoundError:  # just being written, or a task that came late wrote into what was removed
                done = time.time() - place.stat().st_mtime > ABANDONED
            except (OSError, ValueError, KeyError, TypeError):
                done = False
            if done:
                rmtree(place, ignore_errors=True)
        (folder / FOLDER).rmdir()  # where nothing is left
