"""The README's commands are run, and what it prints of the rules is what mupcheck prints."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import pytest

from mupcheck.theory.rules_file import parse_table

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
# what takes minutes is checked up to the moment it would train
UNTRAINED = {"coord": "--dry-run", "lr-sweep": "--dry-run", "selftest": "--help"}
# what trains in seconds, and what judges that
GATES = [command for command in MUPCHECK if command.split()[1] == "coord" and "--name" in command]
CHECKS = [command for command in MUPCHECK if command.split()[1] == "check"]
# what says the same on every machine
SAME = [command for command in MUPCHECK if command.split()[1] in ("rules", "explain", "identities")]
VERDICT = re.compile(r"\S+ \(\w+, [\w-]+\): [a-z ,]+|\d+ checked")


def shown(command: str) -> list[str]:
    """Return the lines that the README shows below a command."""
    lines = "\n".join(blocks("console")).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line[2:].partition(" #")[0].strip() == command)
    return list(takewhile(lambda line: not line.startswith("$ "), lines[start + 1 :]))


def verdicts(lines: Iterable[str]) -> set[str]:
    return {match[0] for match in map(VERDICT.match, lines) if match}


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
        # the verdict alone: how many slopes are open may round another way on another machine
        assert verdicts(shown(command)) <= verdicts(done.stdout.splitlines())
    (update,) = (command for command in CHECKS if "--update-baseline" in command)
    assert run(update, path).returncode == 0
    return path


def test_there_are_commands():
    assert len(MUPCHECK) >= 8
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [command for command in MUPCHECK if command not in GATES + CHECKS + SAME])
def test_a_command_works_as_typed(command, folder):
    done = run(f"{command} {UNTRAINED.get(command.split()[1], '')}", folder)
    assert done.returncode in (0, 3), done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", CHECKS)
def test_a_gate_prints_what_the_readme_shows(command, gates):
    done = run(command, gates)
    assert done.returncode == EXITS.get(command, 0), done.stderr
    # verdicts and their counts; the slopes may round another way on another machine
    wanted = [line for line in shown(command) if VERDICT.match(line)]
    assert len(wanted) == (0 if "--update-baseline" in command else 2)
    assert set(wanted) <= {line.strip() for line in done.stdout.splitlines()}


def test_a_command_that_does_not_exist_is_seen(folder):
    assert run("mupcheck coordinate --widths 256", folder).returncode == 2


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in COMMANDS:
        if command.startswith("make "):
            assert command.split()[1] in targets


@pytest.mark.parametrize("command", SAME)
def test_what_is_the_same_everywhere_is_what_the_readme_shows(command, folder):
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    lines = [line.rstrip() for line in shown(command) if line.strip()]
    # what stands for lines that are left out is no line
    wanted = [line for line in lines if line != "..."]
    assert len(wanted) >= 1
    assert [line for line in printed if line in wanted] == wanted
    assert "..." in lines or wanted == printed


def test_the_workflow_runs_what_the_commands_do(gates):
    (block,) = blocks("yaml")
    steps = re.findall(r"- run: (mupcheck .*?)(?: \|\| true.*)?$", block, re.MULTILINE)
    assert len(steps) == 2 and steps[0] in GATES
    done = run(steps[1].replace('"$GITHUB_STEP_SUMMARY"', "summary.md"), gates)
    assert done.returncode == 0, done.stderr
    assert (gates / "summary.md").read_text().startswith("### mupcheck check: ✅ ok")


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
    command = [sys.executable, "-m", "pytest", "-p", "mupcheck.gate.pytest_plugin", "--setup-plan", "test_mup.py"]
    done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fixtures used: _coord_checks, coord_check") == 2
