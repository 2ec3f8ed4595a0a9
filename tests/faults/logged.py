"""The command line with a log of what is trained: a line when a run begins, and one for each of its steps.

    python tests/faults/logged.py LOG run sweep.toml ...

Workers find what they do in this module, which is why the command below imports it by its name.
"""

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

FOLDERS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parent)


def logged(group: Any, *, log: str, **options: Any) -> Iterator[int]:
    """Train a group as the sweep does, and write down its beginning and its steps."""
    from mupcheck.sweep.group import run_group

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for run in group:
        os.write(descriptor, f"begun {run.run_id}\n".encode())
    for steps in run_group(group, **options):
        os.write(descriptor, f"step {group[0].run_id}\n".encode() * steps * len(group))
        yield steps


def main(log: str, arguments: list[str]) -> None:
    from mupcheck.cli import app
    from mupcheck.sweep import runner

    runner.run_group = partial(logged, log=log)
    sys.argv = ["mupcheck", *arguments]
    app.main()


def counts(log: Path) -> tuple[int, int]:
    """Return how many runs began and how many steps were trained."""
    lines = log.read_text().splitlines() if log.exists() else []
    begun = sum(line.startswith("begun") for line in lines)
    return begun, len(lines) - begun


if __name__ == "__main__":
    sys.path[:0] = map(str, FOLDERS)
    import logged as itself  # type: ignore[import-not-found]

    itself.main(sys.argv[1], sys.argv[2:])
