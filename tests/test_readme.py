"""The README's commands are run, and what it prints of the rules is what mupcheck prints."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mupcheck.parametrization import parse_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line[2:].partition(" #")[0].strip()
    for block in blocks("console")
    for line in block.splitlines()
    if line.startswith("$ ")
]
MUPCHECK = [command for command in COMMANDS if command.startswith("mupcheck ")]
TRAINS = ("coord", "lr-sweep", "run")


def run(command: str, cwd: Path) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the sweeps, and a results folder that a small sweep filled."""
    path = tmp_path_factory.mktemp("readme")
    (path / "sweeps").symlink_to(ROOT / "sweeps")
    done = run("mupcheck run sweeps/smoke.toml --device cpu", path)
    assert done.returncode in (0, 3), done.stderr
    return path


def test_there_are_commands():
    assert len(MUPCHECK) >= 8
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", MUPCHECK)
def test_a_command_works_as_typed(command, folder):
    trains = command.split()[1] in TRAINS and "smoke" not in command
    # what takes minutes is checked up to the moment it would train
    done = run(f"{command} --dry-run" if trains and "--dry-run" not in command else command, folder)
    assert done.returncode in (0, 3), done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_a_command_that_does_not_exist_is_seen(folder):
    assert run("mupcheck coordinate --widths 256", folder).returncode == 2


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in COMMANDS:
        if command.startswith("make "):
            assert command.split()[1] in targets


def test_the_rules_are_those_printed(folder):
    (block,) = (b for b in blocks("console") if b.startswith("$ mupcheck rules"))
    command, _, shown = block.partition("\n")
    printed = run(command[2:], folder).stdout
    assert [line.rstrip() for line in shown.splitlines() if line.strip()] == [
        line.rstrip() for line in printed.splitlines() if line.strip()
    ]


def test_the_custom_table_is_one():
    (block,) = blocks("toml")
    assert parse_table(tomllib.loads(block), "README").name == "gates-as-hidden"


def test_the_python_runs(folder):
    (block,) = blocks("python")
    code = block.replace("results/lr", "results/smoke")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "gdn-mup cannot tell" in done.stdout or "gdn-mup drifts" in done.stdout or "gdn-mup transfers" in done.stdout
