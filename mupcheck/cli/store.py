"""compact: a sweep's many files once more as few."""

from pathlib import Path
from typing import Annotated

import typer

from mupcheck.cli.exits import STORAGE
from mupcheck.cli.options import Json
from mupcheck.results.stores.address import check_no_address
from mupcheck.terminal.console import print_json, say


def compact(
    path: Annotated[Path, typer.Argument(help="Results folder, or one sweep's folder in it.")] = Path("results"),
    json: Json = False,
) -> None:
    """Write the runs of each sweep under PATH once more, as one file a table, so that thousands of them load at once.

    The runs' own files stay and remain the truth. A sweep of more than 2,000 runs does this by itself.

    Example: mupcheck compact results/coord
    """
    from dataclasses import asdict

    from mupcheck.results.cache import FOLDER
    from mupcheck.results.compact import compact as compacted
    from mupcheck.results.reading import sweep_folders

    check_no_address(path, "PATH")
    done = {folder: compacted(folder) for folder in sweep_folders(path)}
    for folder, each in done.items():
        for line in each.damaged:
            say(f"left out: {line}")
        if not json:
            print(
                f"{folder}: {each.n_runs:,} runs in {folder / FOLDER}, {each.n_bytes / 1e6:,.1f} MB, {each.n_new:,} new"
            )
    if json:
        print_json([{"folder": str(folder)} | asdict(each) for folder, each in done.items()])
    if any(each.damaged for each in done.values()):
        raise typer.Exit(STORAGE)
