"""An empty folder without the user's settings, and small sweeps in it."""

import os
import shutil
from pathlib import Path

import pytest
from commands import mupcheck
from small_sweeps import COORD, HERE, LR

from mupcheck.cli import exits


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Stand in an empty folder, with none of the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MUPCHECK_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _guessed(nothing_timed):
    """Let dry runs, of which there are many here, guess their time."""


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Return a folder with `coord.toml`, `lr.toml` and their `results/`; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    for name, text in (("coord", COORD), ("lr", LR)):
        path = folder / f"{name}.toml"
        path.write_text(text)
        answer = mupcheck("run", path, "--out", folder / "results", *HERE)
        assert answer.code in (exits.FAILED, exits.CANNOT_TELL), answer.err
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """Return a copy of `made` for a test of its own."""
    return Path(shutil.copytree(made, tmp_path / "copied"))


@pytest.fixture
def _no_training(monkeypatch):
    """Make training a fault of the test."""

    def trained(*args, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr("mupcheck.sweep.runner.run_group", trained)
    monkeypatch.setattr("mupcheck.sweep.runner.execute", trained)
