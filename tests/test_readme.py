"""The README's commands are run, and what it prints of the rules is what mupcheck prints."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import takewhile
from pathlib import Path

import pytest

from mupcheck.parametrization import parse_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


TYPED = [
    line[2:].partition(" #") for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
]
COMMANDS = [command.strip() for command, _, _ in TYPED]
MUPCHECK = [command for command in COMMANDS if command.startswith("mupcheck ")]
# what a command exits with, where the README says so
EXITS = {command.strip(): int(said.split()[-1]) for command, _, said in TYPED if "exits with" in said}
TRAINS = ("coord", "lr-sweep", "run")
# what section "In CI" trains, in seconds, and judges
GATES = [command for command in MUPCHECK if command.split()[1] == "coord" and "--name" in command]
CHECKS = [command for command in MUPCHECK if command.split()[1] == "check"]


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


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """A folder with the custom table, the results of the README's gates, trained as typed, and their baseline."""
    path = tmp_path_factory.mktemp("gates")
    (path / "my_rules.toml").write_text(blocks("toml")[0])
    for command in GATES:
        done = run(f"{command} --device cpu", path)
        assert done.returncode == EXITS.get(command, 0), done.stdout + done.stderr
    (update,) = (command for command in CHECKS if "--update-baseline" in command)
    assert run(update, path).returncode == 0
    return path


def test_there_are_commands():
    assert len(MUPCHECK) >= 8
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [command for command in MUPCHECK if command not in GATES + CHECKS])
def test_a_command_works_as_typed(command, folder):
    trains = command.split()[1] in TRAINS and "smoke" not in command
    # what takes minutes is checked up to the moment it would train
    done = run(f"{command} --dry-run" if trains and "--dry-run" not in command else command, folder)
    assert done.returncode in (0, 3), done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", CHECKS)
def test_a_gate_prints_what_the_readme_shows(command, gates):
    done = run(command, gates)
    assert done.returncode == EXITS.get(command, 0), done.stderr
    lines = "\n".join(blocks("console")).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line[2:].partition(" #")[0].strip() == command)
    shown = list(takewhile(lambda line: not line.startswith("$ "), lines[start + 1 :]))
    # verdicts and their counts; the slopes may round another way on another machine
    verdicts = [line for line in shown if re.match(r"\S+ \(\w+, [\w-]+\): |\d+ checked", line)]
    assert len(verdicts) == (0 if "--update-baseline" in command else 2)
    assert set(verdicts) <= {line.strip() for line in done.stdout.splitlines()}


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


def test_the_workflow_runs_what_the_commands_do(gates):
    (block,) = blocks("yaml")
    steps = re.findall(r"- run: (mupcheck .*?)(?: \|\| true.*)?$", block, re.MULTILINE)
    assert len(steps) == 2 and steps[0] in GATES
    done = run(steps[1].replace('"$GITHUB_STEP_SUMMARY"', "summary.md"), gates)
    assert done.returncode == 0, done.stderr
    assert (gates / "summary.md").read_text().startswith("### mupcheck check: ✅ ok")
    assert (gates / "junit.xml").exists()


def test_the_custom_table_is_one():
    (block,) = blocks("toml")
    assert parse_table(tomllib.loads(block), "README").name == "gates-as-hidden"


def test_the_python_runs(folder):
    block, _ = blocks("python")
    code = block.replace("results/lr", "results/smoke")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "gdn-mup cannot tell" in done.stdout or "gdn-mup drifts" in done.stdout or "gdn-mup transfers" in done.stdout


def test_the_python_test_finds_its_fixture(folder):
    _, block = blocks("python")
    (folder / "test_mup.py").write_text(block)
    plain = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "mupcheck.pytest_plugin", "--setup-plan", "test_mup.py"]
    done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fixtures used: _coord_checks, coord_check") == 2
