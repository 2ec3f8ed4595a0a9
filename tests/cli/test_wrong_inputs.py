"""Five hundred wrong inputs and more, made and by hand: exit code 2, one line, nothing written."""

import random
import shlex
import sys
from pathlib import Path

import pytest
import wrong_inputs
from commands import mupcheck

from mupcheck.cli import exits

LINES = [shlex.split(line) for part in wrong_inputs.BY_HAND.strip().splitlines() for line in part.split(" | ")]


def tree(folder: Path) -> set:
    return {(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """Return a function that says what is wrong with how a wrong input ended, an empty text if nothing is."""
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    wrong_inputs.lay_out(tmp_path)

    def wrong(*arguments: str, files: dict[str, bytes] | None = None, **environment: str) -> str:
        for name, content in (files or {}).items():
            (tmp_path / name).write_bytes(content)
        before = tree(tmp_path)
        answer = mupcheck(*arguments, **environment)
        said = answer.err.removesuffix("\n")
        faults = {
            f"exit code {answer.code}": answer.code != exits.USAGE,
            "something on stdout": bool(answer.out),
            "not one line": not said.startswith("error: ") or not said.isprintable() or not answer.err.endswith("\n"),
            "a traceback": "Traceback" in said or "pydantic" in said,
            "a novel": len(said) > 1500,
            "something written": tree(tmp_path) != before,
        }
        if not any(faults.values()):
            return ""
        shown = " ".join(argument[:60] for argument in arguments)
        return f"{shown!r}: {', '.join(fault for fault, is_so in faults.items() if is_so)}: {answer.err[:300]!r}"

    return wrong


@pytest.mark.usefixtures("_no_training")
def test_wrong_values_of_options(wrong):
    cases = list(wrong_inputs.of_options())
    faults = [said for case in cases if (said := wrong(*case))]
    assert not faults, "\n".join(faults)


@pytest.mark.usefixtures("_no_training")
def test_wrong_values_of_variables(wrong):
    draw = random.Random(0)
    cases = draw.sample([case for case in wrong_inputs.of_options() if not case[-1].endswith("=")], 60)
    faults = []
    for command, *options, last in cases:
        name, _, value = last.partition("=")
        if "\x00" in value or name in options:  # what is typed would win
            continue
        variable = "MUPCHECK_" + name[2:].replace("-", "_").upper()
        if said := wrong(command, *options, **{variable: value}):
            faults.append(f"{variable}: {said}")
    assert not faults, "\n".join(faults)


@pytest.mark.usefixtures("_no_training")
def test_wrong_values_of_keys_and_damaged_files(wrong):
    texts = [(text.encode(), key) for text, key in wrong_inputs.of_keys()]
    texts += [(content, "") for content in wrong_inputs.of_damaged_files(random.Random(0))]
    faults = [
        f"{key} {content[-60:]!r}: {said}"
        for content, key in texts
        if (said := wrong("run", "made.toml", "--device", "cpu", files={"made.toml": content}))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.usefixtures("_no_training")
def test_wrong_rules(wrong):
    commands = (("rules",), ("coord", *wrong_inputs.SMALL), ("explain", "z_beta"), ("identities",))
    cases = list(wrong_inputs.of_rules())
    faults = [
        f"{text!r}: {said}"
        for i, text in enumerate(cases)
        if (said := wrong(*commands[i % len(commands)], "-p", "mine.toml", files={"mine.toml": text.encode()}))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.usefixtures("_no_training")
def test_wrong_lines_by_hand(wrong):
    faults = [said for line in LINES if (said := wrong(*line))]
    assert not faults, "\n".join(faults)


def test_there_are_five_hundred():
    made = [wrong_inputs.of_options(), wrong_inputs.of_keys(), wrong_inputs.of_damaged_files(random.Random(0))]
    n_made = sum(len(list(cases)) for cases in (*made, wrong_inputs.of_rules()))
    assert n_made > 600 and len(LINES) > 100
