"""By what a result came about: commit and versions."""

import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mupcheck.results.version import version


@cache
def provenance() -> dict[str, Any]:
    """Return the commit and versions that a run's row carries."""
    return {
        "commit": _commit(),
        "mupcheck": version(),
        "torch": metadata.version("torch"),
        "triton": _version("triton"),
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return mupcheck's own commit, "+" behind it where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None or not (here.parent / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        ).stdout
    except (subprocess.CalledProcessError, OSError):
        return None
    return commit + ("+" if changed else "")
