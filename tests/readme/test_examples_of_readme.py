"""The README's Python, its test file and its workflow run as they stand, on what its commands made."""

import os
import re
import shlex
import subprocess
import sys
import tomllib

import typer
from quoted import ROOT, blocks

from mupcheck.cli.app import app
from mupcheck.theory.rules_file import parse_table

pytest_plugins = ["pytester"]
COMMANDS = typer.main.get_command(app).commands
TESTS, PYTHON = sorted(blocks("python"), key=lambda block: "import mupcheck" in block)


def process(command, folder, **environment):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_the_python_runs_twice_in_one_process(workplace):
    twice = "import sys\ncode = sys.stdin.read()\nexec(code, {})\nprint('again')\nexec(code, {})\n"
    done = subprocess.run(
        [sys.executable, "-c", twice], input=PYTHON, cwd=workplace.folder, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("again\n")
    assert first == second
    assert re.search(r"^(gdn-mup|sp-fanin) (cannot tell|drifts|transfers) ", first, re.MULTILINE)
    assert re.search(r"^gdn-mup pass ", first, re.MULTILINE)


def test_the_custom_table_is_one():
    (block,) = blocks("toml")
    assert parse_table(tomllib.loads(block), "README").name == "gates-as-hidden"


def test_the_commands_for_other_machines_parse():
    (block,) = blocks("sh")
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) > 5
    for name, verb, *words in commands:
        assert name == "mupcheck"
        with COMMANDS[verb].make_context(verb, words):
            pass


def test_the_test_file_passes_with_the_table_that_it_names(workplace, pytester, monkeypatch):
    # with the plugin alone: an installed one would be a second of its name
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_mup=TESTS)
    (pytester.path / "my_rules.toml").write_text((workplace.folder / "my_rules.toml").read_text())
    pytester.runpytest_inprocess("-p", "mupcheck.gate.pytest_plugin").assert_outcomes(passed=2)


def test_the_workflow_runs_in_a_clean_folder(workplace, tmp_path):
    (block,) = blocks("yaml")
    steps = re.findall(r"^ +- run: (.*)$", block, re.MULTILINE)
    assert len(steps) == 3 and steps[0].startswith("pip install .")
    # as GitHub runs them: a shell of its own for each, which ends at the first command that fails
    (tmp_path / "bin").mkdir()
    for name, does in (("pip", "exit 0"), ("mupcheck", f'exec "{sys.executable}" -m mupcheck "$@"')):
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\n{does}\n")
        tool.chmod(0o755)
    search = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    search |= {"MUPCHECK_DEVICE": "cpu", "MUPCHECK_JOBS": "1"}
    clean = tmp_path / "checkout"
    clean.mkdir()
    (clean / "gate.txt").write_text((workplace.folder / "gate.txt").read_text())
    for step in steps:
        done = process(["bash", "-e", "-c", step], clean, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"), **search)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "summary.md").read_text().startswith("### mupcheck check: ✅ ok")
    # and it would see a slope that moved
    moved = re.sub(r"(effective_update +rms +q_proj +later +)\S+", r"\1+0.500", (clean / "gate.txt").read_text())
    (clean / "gate.txt").write_text(moved)
    assert process(["bash", "-e", "-c", steps[-1]], clean, GITHUB_STEP_SUMMARY="s.md", **search).returncode == 1
