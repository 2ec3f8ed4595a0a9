"""The command line as a user meets it: answers, exit codes, one line for every fault, and help that tells the truth."""

import contextlib
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from commands import Answer, mupcheck

from mupcheck.cli import app, exits
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.coordinates.validity import _missing
from mupcheck.results.files import StoreError
from mupcheck.spec.lrs import parse_lrs
from mupcheck.spec.reading import make_sweep
from mupcheck.sweep import group
from mupcheck.sweep.doctor import try_backend
from mupcheck.theory.parametrization import MODES, TABLES

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (
    *("coord", "lr-sweep", "run", "plot", "check", "rules", "doctor"),
    *("identities", "gates", "explain", "selftest"),
)
# on the CPU and in this process, wherever the tests run
HERE = ("--device", "cpu", "--jobs", "1")
SMALL = (*["--data", "synthetic", "--widths", "16,32", "--layers", "1", "--heads", "2", "--seeds", "1"], *HERE)
COORD = """
# Does it fail?
question = "Does SP fail?"
kind = "coord"
data = "synthetic"
widths = [16, 32, 64]
parametrizations = ["sp"]
seeds = 3
n_layers = 1
n_heads = 2
record = [0, 1]
"""
LR = """
# Does it run?
kind = "lr"
data = "synthetic"
widths = [16, 32]
parametrizations = ["gdn-mup"]
lrs = "2^-8:2^-6:2"
seeds = 1
steps = 3
warmup_steps = 0
batch_size = 2
seq_len = 8
eval_tokens = 16
"""


def process(*arguments: object, **environment: str) -> Answer:
    """Run the command line in a process of its own, behind pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "mupcheck", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path under a folder with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Stand in an empty folder, with none of the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MUPCHECK_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)


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


# --- from options to answer -------------------------------------------------------------------------------------------


def test_smoke_runs_from_a_shell_to_a_verdict(tmp_path):
    answer = process("run", REPOSITORY / "sweeps" / "smoke.toml", "--out", tmp_path, "--device", "cpu")
    assert answer.code in (exits.OK, exits.CANNOT_TELL)
    assert "Traceback" not in answer.err and "\x1b" not in answer.out + answer.err
    assert "36 of 36 runs to train" in answer.err and "done in" in answer.err
    for name in ("sp-fanin", "gdn-mup"):
        assert re.search(
            rf"^{name} \(adamw, head-dim\): (transfers|drifts|cannot tell)\n  drift ", answer.out, re.MULTILINE
        )
    assert len(list((tmp_path / "smoke" / "runs").glob("*.parquet"))) == 36
    assert json.loads((tmp_path / "smoke" / "sweep.json").read_text())["question"].endswith("?")
    assert not (tmp_path / "smoke" / "coords").exists()


def test_a_coordinate_check_shows_its_verdict_table(made):
    answer = mupcheck("run", made / "coord.toml", "--out", made / "results", *HERE)
    assert answer.code == exits.FAILED
    assert "sp: the verdict is 'fail', expected 'pass'" in answer.err
    assert re.search(r"^sp \(adamw, head-dim\): fail ", answer.out, re.MULTILINE)
    for word in ("quantity", "slope", "interval", "required", "verdict", "effective_update rms", "down_proj"):
        assert word in answer.out
    everything = mupcheck("run", made / "coord.toml", "--out", made / "results", *HERE, "--all")
    assert len(everything.out.splitlines()) > len(answer.out.splitlines())
    assert len(list((made / "results" / "coord" / "coords").glob("*.parquet"))) == 9


def test_coord_and_lr_sweep_train_from_options_alone(tmp_path):
    answer = mupcheck("coord", *SMALL, "--record", "0,1", "-p", "gdn-mup", "--out", "here", "--name", "a")
    assert answer.code in (exits.FAILED, exits.CANNOT_TELL), answer.err
    answer = mupcheck(
        *("lr-sweep", *SMALL, "-p", "mup", "--lrs", "2^-9,2^-7", "--steps", "2", "--batch-size", "2"),
        *("--seq-len", "8", "--eval-tokens", "0", "--out", "here"),
    )
    assert answer.code == exits.CANNOT_TELL, answer.err
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"a", "lr"}
    runs = pd.read_parquet(tmp_path / "here" / "lr" / "runs")
    assert sorted(runs["lr"].unique()) == [2**-9, 2**-7]
    assert set(runs["parametrization"]) == {"mup"} and set(runs["width"]) == {16, 32}


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize(
    "arguments",
    [
        # as the issue has users type them
        ("coord", "--widths", "256,512,1024"),
        ("lr-sweep", "--opt", "adamw"),
        ("lr-sweep", "--opt", "sgd"),
        ("run", REPOSITORY / "sweeps" / "demo_lr.toml"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:3])),
)
def test_a_dry_run_shows_the_cost_and_writes_nothing(tmp_path, arguments):
    answer = mupcheck(*arguments, "--dry-run")
    assert (answer.code, answer.err, tree(tmp_path)) == (exits.OK, "", {})
    for word in ("parameters", "FLOPs", "bytes", "nothing was trained", "runs to train"):
        assert word in answer.out
    as_json = mupcheck(*arguments, "--dry-run", "--json", *HERE)
    assert (as_json.code, as_json.err, tree(tmp_path)) == (exits.OK, "", {})
    plan = as_json.json
    assert plan["runs"] == sum(row["runs"] for row in plan["widths"]) == sum(row["missing"] for row in plan["widths"])
    assert plan["flops"] > 0 and plan["seconds"] > 0
    for row in plan["widths"]:
        assert row["n_params"] > row["width"] ** 2 and row["group_bytes"] > row["n_params"]


def test_plot_prints_the_files_it_wrote(copied):
    before = set(tree(copied))
    answer = mupcheck("plot", copied / "results")
    assert (answer.code, answer.err) == (exits.OK, "")
    written = {str(Path(line).relative_to(copied)) for line in answer.out.splitlines()}
    assert {path for path in set(tree(copied)) - before if "." in path} == written
    assert {Path(path).suffix for path in written} == {".png", ".svg"}
    assert {path.split("/")[1] for path in written} == {"coord", "lr"}
    one = mupcheck("plot", copied / "results" / "lr", "--json")
    assert [Path(path).parent.parent.name for path in one.json] == ["lr"] * len(one.json)
    assert {str(Path(path).relative_to(copied)) for path in one.json} <= written


def test_rules_prints_every_table_with_its_sources():
    answer = mupcheck("rules")
    assert (answer.code, answer.err) == (exits.OK, "")
    for name in TABLES:
        for mode in MODES:
            assert f"{name}, {mode} mode: " in answer.out
    # theory.md: where a rule is printed, say what of the paper was not available
    assert "arXiv:2606.04048" in answer.out and "not available" in answer.out
    one = mupcheck("rules", "-p", "gdn-mup, mup", "--mode", "head-dim")
    assert one.out.count(" mode: ") == 2
    gate = next(line for line in one.out.splitlines() if line.startswith(" gate "))
    assert gate.split()[1:5] == ["-1/2", "-1", "-1/2", "-1/2"]  # init, adamw, sgd, eps
    assert "forward multipliers: logits -1, o_raw +1/2" in one.out


def test_rules_as_json_are_the_tables():
    document = mupcheck("rules", "--json").json
    assert len(document) == len(TABLES) * 4
    for entry in document:
        table = TABLES[entry["parametrization"]]
        for role, rule in entry["rules"].items():
            expected = table.rule(role, optimizer=entry["optimizer"], mode=entry["mode"])
            assert (rule["init"], rule["lr"], rule["source"]) == (expected.init, expected.lr, expected.source)


def test_rules_at_a_width_are_the_values_each_parameter_gets(tmp_path):
    Path("mine.toml").write_text('name = "mine"\nbase = "gdn-mup"\n[[rule]]\nrole = "hidden"\nlr = -2\n')
    arguments = ["--opt", "adamw", "--mode", "head-dim", "--width", "1024", "--base-width", "256"]
    for table, lr in (("gdn-mup", 1 / 4), ("mine.toml", 1 / 16)):
        (answer,) = mupcheck("rules", "-p", table, *arguments, "--json").json
        by_site = {row["site"]: row for row in answer["parameters"]}
        assert by_site["q_proj"]["lr"] == lr
        assert by_site["q_proj"]["init_std"] == pytest.approx(1024**-0.5)
        assert by_site["embedding"]["lr"] == by_site["A_log"]["lr"] == 1
        assert {"readout", "dt_bias", "o_norm_gain", "q_conv1d", "down_proj"} <= set(by_site)
    text = mupcheck("rules", "-p", "gdn-mup", *arguments)
    assert "width 1024, m = 4" in text.out and re.search(r"q_proj +hidden +1024 x \d+ +0\.03125 +0\.25", text.out)
    assert "readout " not in mupcheck("rules", "-p", "gdn-mup", *arguments, "--tied").out


def test_doctor_says_what_there_is():
    answer = mupcheck("doctor")
    assert (answer.code, answer.err) == (exits.OK, "")
    assert re.search(r"^torch +\d", answer.out, re.MULTILINE)
    assert re.search(r"^reference on cpu +works relative error", answer.out, re.MULTILINE)
    assert {finding["name"] for finding in mupcheck("doctor", "--json").json} >= {"torch", "chunk on cpu"}


# --- options, environment, file ---------------------------------------------------------------------------------------


def planned(*arguments: object, **environment: str) -> dict:
    """Return the sweep that a command would run."""
    answer = mupcheck(*arguments, "--dry-run", "--json", **environment)
    assert answer.code == exits.OK, answer.err
    return answer.json["sweep"]


COORD_OPTIONS = {
    "--widths": ("32, 64", "widths", [32, 64]),
    "--base-width": ("16", "base_width", 16),
    "--parametrization": ("sp,mup", "parametrizations", ["sp", "mup"]),
    "--opt": ("sgd", "optimizer", "sgd"),
    "--momentum": ("0.5", "momentum", 0.5),
    "--lr": ("2^-5", "lrs", [2**-5]),
    "--mode": ("heads", "mode", "heads"),
    "--layers": ("3", "n_layers", 3),
    "--heads": ("2", "n_heads", 2),
    "--seeds": ("2", "seeds", [0, 1]),
    "--steps": ("7", "steps", 7),
    "--record": ("0,2", "record", [0, 2]),
    "--batch-size": ("3", "batch_size", 3),
    "--seq-len": ("8", "seq_len", 8),
    "--data": ("synthetic", "data", "synthetic"),
    "--vocab-size": ("64", "vocab_size", 64),
    "--tied": (None, "tied", True),
    "--weight-decay": ("0.5", "weight_decay", 0.5),
    "--decay-mode": ("independent", "decay_mode", "independent"),
    "--dtype": ("float64", "dtype", "float64"),
    "--backend": ("reference", "backend", "reference"),
    "--name": ("mine", "name", "mine"),
    "--top-up": (None, "top_up", True),
    "--budget": ("2.5", "budget", 2.5),
}
_COORD_ONLY = ("--lr", "--record", "--top-up", "--budget")
LR_OPTIONS = {name: option for name, option in COORD_OPTIONS.items() if name not in _COORD_ONLY} | {
    "--lrs": ("2^-5:2^-3:2", "lrs", [2**-5, 2**-4, 2**-3]),
    "--schedule": ("cosine", "schedule", "cosine"),
    "--warmup": ("2", "warmup_steps", 2),
    "--clip": ("1.5", "clip", 1.5),
    "--eval-tokens": ("99", "eval_tokens", 99),
    "--refine": (None, "refine", True),
    "--precision": ("0.5", "precision", 0.5),
}
# what says where and how to run, not what
APART = {"--config", "--device", "--jobs", "--engine", "--out", "--fresh", "--dry-run", "--json"}
APART |= {"--expect", "--strict", "--all", "--help"}


@pytest.mark.parametrize(("command", "options"), [("coord", COORD_OPTIONS), ("lr-sweep", LR_OPTIONS)])
def test_options_environment_and_file_give_the_same_sweep(command, options):
    assert {option.opts[0] for option in options_of(command)} - APART == set(options)
    arguments = [part for name, (text, _, _) in options.items() for part in (name, text) if part is not None]
    by_option = planned(command, *arguments)
    for name, (_, key, value) in options.items():
        assert by_option[key] == value, name
    variables = {"MUPCHECK_" + n[2:].replace("-", "_").upper(): text or "1" for n, (text, _, _) in options.items()}
    assert planned(command, **variables) == by_option
    kind = "coord" if command == "coord" else "lr"
    lines = [f"{key} = {json.dumps(value)}" for _, key, value in options.values()]
    Path("file.toml").write_text("\n".join([f'kind = "{kind}"', *lines]))
    assert planned("run", "file.toml") == planned(command, "--config", "file.toml") == by_option


def test_an_option_wins_over_the_environment_over_the_file_over_the_default():
    Path("file.toml").write_text('kind = "coord"\ndata = "synthetic"\nbatch_size = 3\ntied = true\n')
    file, variable, option = ("--config", "file.toml"), {"MUPCHECK_BATCH_SIZE": "5"}, ("--batch-size", "7")
    assert planned("coord")["batch_size"] == 1
    assert planned("coord", *file)["batch_size"] == 3
    assert planned("coord", *file, **variable)["batch_size"] == 5
    assert planned("coord", **variable)["batch_size"] == 5
    assert planned("coord", *file, *option, **variable)["batch_size"] == 7
    # a flag has two sides, and an empty variable is none
    assert planned("coord", *file)["tied"] is True
    assert planned("coord", *file, MUPCHECK_TIED="0")["tied"] is False
    assert planned("coord", *file, "--untied", MUPCHECK_TIED="1")["tied"] is False
    assert planned("coord", *file, MUPCHECK_BATCH_SIZE="")["batch_size"] == 3
    assert planned("run", "file.toml")["batch_size"] == 3
    assert planned("run", "file.toml", **variable)["batch_size"] == 5


def test_a_sweep_with_missing_or_diverged_runs_does_not_pass(tmp_path, monkeypatch):
    Path("sweep.toml").write_text(
        'kind = "coord"\ndata = "synthetic"\nwidths = [16, 32, 64]\nn_heads = 2\nseeds = 2\nrecord = [0, 1]\n'
    )
    # three tiny widths decide nothing by themselves
    fit = "mupcheck.coordinates.judge.fit_slopes"
    monkeypatch.setattr(fit, lambda *a, **options: fit_slopes(*a, **options).assign(verdict="pass", as_implied=True))
    monkeypatch.setattr("mupcheck.coordinates.validity.PARTS", (_missing,))
    assert mupcheck("run", "sweep.toml", *HERE).code == exits.OK
    runs = sorted(Path("results/sweep/runs").glob("*.parquet"))
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda plan, jobs: iter(()))
    runs[0].unlink()
    answer = mupcheck("run", "sweep.toml", *HERE)
    assert answer.code == exits.CANNOT_TELL
    assert "why: 1 run of sweep is missing" in answer.out and "next: run the same command again" in answer.out


def test_a_refined_sweep_is_trained_judged_and_resumed(tmp_path):
    Path("lr.toml").write_text(LR.replace("steps = 3", "steps = 8"))
    plain = mupcheck("run", "lr.toml", *HERE, "--out", "plain", "--json")
    command = ("lr-sweep", "--config", "lr.toml", "--refine", "--precision", "1", *HERE)
    answer = mupcheck(*command, "--json")
    assert answer.code == exits.CANNOT_TELL, answer.err
    n_grid, n_refined = ([len(optimum["curve"]) for optimum in a.json[0]["optima"]] for a in (plain, answer))
    assert n_grid == [3, 3]
    assert max(n_refined) > 3  # the best lr of a few steps lies above the grid
    assert "incomplete" not in answer.out
    assert "lr: 6 of 6 runs to train" in answer.err
    assert re.search(r"lr: \d of \d+ runs to train", answer.err.split("done in", 1)[1])
    again = mupcheck(*command)
    assert "to train" not in again.err
    assert "lr gap" not in again.out and "fast transfer: cannot tell, 2 widths" in again.out
    Path("fine.toml").write_text(LR + "refine = true\nprecision = 1.0\n")
    assert planned("run", "fine.toml")["refine"] is True
    dry = mupcheck("run", "fine.toml", "--dry-run")
    assert "the refinement" in dry.err and "6 of 6 runs to train" in dry.out


def test_where_to_run_can_come_from_the_environment(made, tmp_path):
    variables = {"MUPCHECK_OUT": str(made / "results"), "MUPCHECK_DEVICE": "cpu", "MUPCHECK_JOBS": "1"}
    answer = mupcheck("run", made / "lr.toml", **variables)
    assert answer.code == exits.CANNOT_TELL and "all 6 runs are there already" in answer.err
    assert tree(tmp_path) == {}
    assert "unknown" in mupcheck("run", made / "lr.toml", MUPCHECK_DEVICE="abacus").err


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_the_answer_and_all_else_goes_to_stderr(made):
    coord = mupcheck("run", made / "coord.toml", "--out", made / "results", *HERE, "--json")
    assert coord.code == exits.FAILED
    assert {"summary", "slopes"} <= set(coord.json)
    assert [row["verdict"] for row in coord.json["summary"]] == ["fail"]
    contract = """parametrization optimizer mode kind stat site layer step slope slope_stderr ci_low ci_high required
        implied tolerance verdict as_implied n_widths n_seeds reason"""
    assert set(contract.split()) <= set(coord.json["slopes"][0])
    lr = mupcheck("run", made / "lr.toml", "--out", made / "results", *HERE, "--json")
    assert lr.code == exits.CANNOT_TELL
    (answer,) = lr.json
    assert answer["parametrization"] == "gdn-mup" and answer["verdict"] == "cannot tell" and answer["reason"]
    assert [optimum["width"] for optimum in answer["optima"]] == [16, 32]
    assert {"drift", "penalty"} <= set(answer)
    assert "runs are there already" in coord.err and "runs are there already" in lr.err


def test_json_of_a_sweep_that_trains_is_alone_on_stdout(tmp_path):
    Path("lr.toml").write_text(LR)
    answer = process("run", "lr.toml", "--json", "--device", "cpu")
    assert answer.code == exits.CANNOT_TELL
    assert len(answer.json) == 1
    assert "6 of 6 runs to train" in answer.err and "done in" in answer.err


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdicts", "expect", "arguments", "code"),
    [
        ("coord", {"sp": "pass"}, "", (), exits.OK),
        ("coord", {"sp": "fail"}, "", (), exits.FAILED),
        ("coord", {"sp": "cannot tell"}, "", (), exits.CANNOT_TELL),
        ("coord", {"sp": "cannot tell"}, "", ("--strict",), exits.FAILED),
        ("coord", {"sp": "fail"}, "", ("--expect", "fail"), exits.OK),
        ("coord", {"sp": "pass"}, "", ("--expect", "fail"), exits.FAILED),
        ("coord", {"sp": "cannot tell"}, "", ("--expect", "fail"), exits.CANNOT_TELL),
        ("coord", {"sp": "cannot tell"}, "", ("--expect", "fail", "--strict"), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "pass"}, 'sp = "fail"', (), exits.OK),
        ("coord", {"sp": "pass", "mup": "pass"}, 'sp = "fail"', (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "fail"}, 'sp = "fail"', (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "pass"}, 'sp = "fail"', ("--expect", "pass"), exits.FAILED),
        ("coord", {"sp": "cannot tell", "mup": "fail"}, "", (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "cannot tell"}, "", (), exits.FAILED),
        ("coord", {"sp": "fail", "mup": "cannot tell"}, 'sp = "fail"', (), exits.CANNOT_TELL),
        ("lr", {"sp": "drifts", "mup": "transfers"}, "", (), exits.OK),
        ("lr", {"sp": "drifts"}, "", ("--strict",), exits.OK),
        ("lr", {"sp": "cannot tell"}, "", (), exits.CANNOT_TELL),
        ("lr", {"sp": "cannot tell"}, "", ("--strict",), exits.FAILED),
        ("lr", {"sp": "drifts", "mup": "transfers"}, 'sp = "drifts", mup = "transfers"', (), exits.OK),
        ("lr", {"sp": "drifts", "mup": "drifts"}, 'sp = "drifts", mup = "transfers"', (), exits.FAILED),
        ("lr", {"sp": "transfers"}, 'sp = "drifts"', (), exits.FAILED),
        ("lr", {"sp": "drifts"}, "", ("--expect", "transfers"), exits.FAILED),
    ],
)
def test_the_exit_code_follows_the_verdicts(monkeypatch, kind, verdicts, expect, arguments, code):
    tables = json.dumps(list(verdicts))
    Path("s.toml").write_text(
        f'kind = "{kind}"\ndata = "synthetic"\nparametrizations = {tables}\nexpect = {{ {expect} }}'
    )
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda *args, **options: iter(()))
    monkeypatch.setattr("mupcheck.cli.sweeps.print_answer", lambda *args, **options: verdicts)
    answer = mupcheck("run", "s.toml", *HERE, *arguments)
    assert answer.code == code, answer.err
    if code == exits.FAILED and "cannot tell" not in verdicts.values():
        assert "expected" in answer.err


def test_exit_codes_of_a_real_check(made):
    again = ("run", made / "coord.toml", "--out", made / "results", *HERE)
    assert mupcheck(*again).code == exits.FAILED
    assert mupcheck(*again, "--expect", "fail").code == exits.OK
    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    assert mupcheck(*again).code == exits.CANNOT_TELL
    assert mupcheck(*again, "--strict").code == exits.FAILED


def test_a_fault_of_the_store_is_exit_code_4_and_the_rest_is_stored(monkeypatch, tmp_path):
    Path("lr.toml").write_text(LR)
    write_run = group.write_run

    def full(folder, run, *tables):
        if run["width"] == 32:
            raise StoreError("cannot write x.parquet: No space left on device")
        write_run(folder, run, *tables)

    monkeypatch.setattr(group, "write_run", full)
    answer = mupcheck("run", "lr.toml", *HERE)
    assert answer.code == exits.STORAGE
    assert "No space left on device" in answer.err and "Traceback" not in answer.err
    assert len(list((tmp_path / "results" / "lr" / "runs").iterdir())) == 3
    assert "gdn-mup" in answer.out  # what there is was judged
    for verdict in ("drifts", "cannot tell"):  # says nothing while runs are missing
        monkeypatch.setattr(
            "mupcheck.cli.sweeps.print_answer", lambda *args, verdict=verdict, **options: {"gdn-mup": verdict}
        )
        assert mupcheck("run", "lr.toml", *HERE, "--expect", "transfers", "--strict").code == exits.STORAGE

    def fuller(folder, run, *tables):
        raise StoreError("cannot write x.parquet: No space left on device")

    monkeypatch.setattr(group, "write_run", fuller)
    answer = mupcheck("run", "lr.toml", *HERE, "--out", "none")
    assert (answer.code, answer.out) == (exits.STORAGE, "")
    assert "run a sweep first" not in answer.err


def test_an_interrupt_is_exit_code_130_wherever_it_comes(made, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    monkeypatch.setattr("mupcheck.learning_rates.drift.transfer", interrupted)
    monkeypatch.setattr("mupcheck.sweep.doctor.examine", interrupted)
    for arguments in (again, ("doctor",)):
        answer = mupcheck(*arguments)
        assert answer.code == exits.INTERRUPTED
        assert "Traceback" not in answer.err and "bug" not in answer.err
    monkeypatch.setattr("mupcheck.sweep.runner.execute", interrupted)
    answer = mupcheck(*again)
    assert answer.code == exits.INTERRUPTED
    assert " ".join(["mupcheck", *map(str, again)]) in answer.err  # the line that goes on


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ZeroDivisionError("x"), EOFError(), AssertionError()])
def test_a_bug_is_exit_code_70_and_says_so(made, monkeypatch, error):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr("mupcheck.sweep.doctor.examine", broken)
    monkeypatch.setattr("mupcheck.sweep.runner.run_group", broken)
    for arguments in (("doctor",), ("run", made / "lr.toml", "--out", "bug", *HERE)):
        answer = mupcheck(*arguments)
        assert (answer.code, answer.out) == (exits.BUG, "")
        assert "a bug in mupcheck" in answer.err
        assert "Traceback (most recent call last):\n" in answer.err and type(error).__name__ in answer.err


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_a_finished_sweep_is_judged_without_training(copied, monkeypatch):
    def trained(*args, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr("mupcheck.sweep.runner.run_group", trained)
    before = tree(copied)
    first = mupcheck("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    assert first.code == exits.CANNOT_TELL
    assert first.err.strip() == f"{copied / 'results' / 'lr'}: all 6 runs are there already"
    assert tree(copied) == before
    assert mupcheck("run", copied / "lr.toml", "--out", copied / "results", *HERE, "--resume") == first


def test_only_what_is_missing_is_trained_and_fresh_trains_all(copied):
    arguments = ("run", copied / "lr.toml", "--out", copied / "results", *HERE)
    runs = copied / "results" / "lr" / "runs"
    before = pd.read_parquet(runs).set_index("run_id").sort_index()
    next(iter(sorted(runs.iterdir()))).unlink()
    answer = mupcheck(*arguments)
    assert "lr: 1 of 6 runs to train" in answer.err
    resumed = pd.read_parquet(runs).set_index("run_id").sort_index()
    assert (resumed["started_at"] > before["started_at"]).sum() == 1
    answer = mupcheck(*arguments, "--fresh")
    assert "lr: 6 of 6 runs to train" in answer.err
    fresh = pd.read_parquet(runs).set_index("run_id").sort_index()
    assert (fresh["started_at"] > resumed["started_at"]).all()
    assert fresh["val_loss"].tolist() == before["val_loss"].tolist()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _bad_things():
    """Lay out, where the test stands, what a user can get wrong."""
    Path("file").write_text("a file, not a folder")
    Path("empty.txt").write_text("")
    Path("empty_folder").mkdir()
    Path("short.txt").write_text("too short")
    Path("empty.bin").write_bytes(b"")
    Path("odd.bin").write_bytes(b"abc")
    Path("no_runs/sweep/runs").mkdir(parents=True)
    for name, text in {
        "unknown_key": LR + "frob = 1",
        "wrong_type": LR.replace("steps = 3", 'steps = "3"'),
        "no_kind": 'data = "synthetic"',
        "not_toml": "kind = ",
        "no_lrs": LR.replace('"2^-8:2^-6:2"', "[]"),
        "nan_lr": LR.replace('"2^-8:2^-6:2"', "[nan]"),
        "expects_a_stranger": LR + 'expect = { sp = "drifts" }',
        "expects_nonsense": LR + 'expect = { gdn-mup = "pass" }',
        "many_seeds": LR.replace("seeds = 1", "seeds = 1000000000000"),
        "huge_seed": LR.replace("seeds = 1", "seeds = [9223372036854775808]"),
        "nan_rule": 'name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gate"\nlr = nan',
        "unknown_role": 'name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gates"',
    }.items():
        Path(f"{name}.toml").write_text(text)


BAD_INPUT = [
    # unknown names
    ("coord -p nope", "unknown parametrization 'nope'; known: sp, "),
    ("coord -p missing.toml", "cannot read the rules file missing.toml: No such file"),
    ("coord -p nan_rule.toml", "nan_rule.toml: lr = nan is not an exponent"),
    ("coord -p unknown_role.toml", "role = 'gates' is unknown; known: embedding, "),
    ("coord -p sp,sp", "twice"),
    ("coord --opt muon", "'adamw' or 'sgd'"),
    ("coord --mode head_dim", "'head-dim' or 'heads'"),
    ("coord --decay-mode none", "'coupled' or 'independent'"),
    ("coord --dtype float16", "'float32', 'bfloat16' or 'float64'"),
    ("coord --backend cuda", "'auto', 'reference', 'chunk' or 'triton'"),
    ("coord --expect maybe", "known: pass, fail"),
    ("coord --expect drifts", "known: pass, fail"),
    ("coord --device abacus", "device 'abacus' is unknown; known: auto, cpu, cuda"),
    ("coord --device cuda:x", "cuda:x"),
    ("coord --device cuda:99", "device 'cuda:99' is not there"),
    ("coord --engine kubernetes", "engine 'kubernetes' is not available; known: local"),
    ("lr-sweep --schedule step", "'constant', 'cosine' or 'linear'"),
    # widths
    ("coord --widths 16,20", "width 20 is not allowed in head-dim mode"),
    ("coord --mode heads --widths 16,20", "width 20 is not allowed in heads mode"),
    ("coord --heads 5", "n_heads=5 does not divide"),
    ("coord --base-width 17", "base_width=17"),
    ("coord --widths ,", "widths is empty"),
    ("coord --widths 16,x", "widths = '16,x' is not a list of whole numbers"),
    ("coord --widths 16,16", "twice"),
    ("coord --widths 0", "widths: 0"),
    ("coord --widths=-16", "widths: -16"),
    # learning rates
    ("coord --lr 0", "greater than 0"),
    ("coord --lr=-0.1", "greater than 0"),
    ("coord --lr nan", "'nan' is not a number above 0"),
    ("coord --lr inf", "'inf' is not a number above 0"),
    ("coord --lr fast", "'fast' is not a number above 0"),
    ("coord --lr 0.1,0.2", "takes one lr, not 2"),
    ("lr-sweep --lrs ,", "lrs is empty"),
    ("lr-sweep --lrs 0.1,nan", "'nan' is not a number above 0"),
    ("lr-sweep --lrs 1e-4:1e-1", "FROM:TO:FACTOR"),
    ("lr-sweep --lrs 1e-1:1e-4:2", "0 < FROM <= TO"),
    ("lr-sweep --lrs 1e-300:1e300:2", "smaller range"),
    ("run no_lrs.toml", "no_lrs.toml: lrs is empty"),
    ("run nan_lr.toml", "nan_lr.toml: lrs: nan"),
    # other numbers
    ("coord --seeds 0", "seeds = 0"),
    ("coord --seeds=-1", "seeds = -1"),
    ("coord --seeds 1000000000000", "seeds = 1000000000000"),
    ("run many_seeds.toml", "seeds = 1000000000000"),
    ("run huge_seed.toml", "seeds: 9223372036854775808"),
    ("coord --record 0,x", "record = '0,x'"),
    ("coord --record ,", "record is empty"),
    ("coord --weight-decay nan", "weight_decay = nan"),
    ("coord --momentum 1", "momentum = 1.0"),
    ("lr-sweep --clip=-1", "clip = -1.0"),
    ("lr-sweep --steps 0", "steps = 0"),
    ("lr-sweep --steps=-5", "steps = -5"),
    ("lr-sweep --steps 4 --warmup 4", "warmup_steps=4 leaves nothing of steps=4"),
    ("coord --layers 0", "n_layers = 0"),
    # options that are not there, or not of their type
    ("coord --frob", "--frob"),
    ("--frob", "--frob"),
    ("coord --layers many", "--layers"),
    ("coord --weight-decay much", "--weight-decay"),
    ("coord --jobs 0", "--jobs"),
    ("coord --widths", "--widths"),
    ("coord one.toml", "one.toml"),
    ("frobnicate", "frobnicate"),
    ("run", "FILE"),
    ("rules --width 1.5", "--width"),
    # data
    ("coord --data nothing", "data 'nothing' is not one of stdlib, synthetic, text:PATH"),
    ("coord --data text:missing.txt", "missing.txt does not exist"),
    ("coord --data text:empty.txt", "text:empty.txt is empty"),
    ("coord --data text:empty_folder", "the folder has no files"),
    ("coord --data text:short.txt", "fewer than one batch"),
    ("coord --data tokens:*.none --vocab-size 100", "no file matches"),
    ("coord --data tokens:empty.bin --vocab-size 100", "empty.bin is empty"),
    ("coord --data tokens:odd.bin --vocab-size 100", "odd.bin has 3 bytes"),
    ("coord --data tokens:odd.bin", "vocab_size"),
    ("coord --vocab-size 1", "vocab_size=1"),
    ("coord --batch-size 100000000", "fewer than one batch"),
    ("coord --data hf:some/name", "needs the package `datasets`; try pip install"),
    # files and folders
    ("coord --out file/results", "cannot write to file/results"),
    ("coord --out file", "cannot write to file"),
    ("coord --name ../up", "name = '../up'"),
    ("run missing.toml", "cannot read the sweep file missing.toml: No such file"),
    ("run empty_folder", "cannot read the sweep file empty_folder: Is a directory"),
    ("run not_toml.toml", "not_toml.toml is not valid TOML"),
    ("run unknown_key.toml", "unknown_key.toml: unknown key 'frob'; known: accumulation, backend"),
    ("run wrong_type.toml", "wrong_type.toml: steps = '3'"),
    ("run no_kind.toml", "a sweep is of kind 'coord' or 'lr'"),
    ("run expects_a_stranger.toml", "expect names 'sp'"),
    ("run expects_nonsense.toml", "try transfers or drifts"),
    ("coord --config unknown_key.toml", "unknown key 'frob'"),
    ("coord --config wrong_kind.toml", "cannot read"),
    ("plot missing", "missing does not exist"),
    ("plot file", "file is not a folder"),
    ("plot empty_folder", "no runs under empty_folder"),
    ("plot no_runs", "no runs under no_runs"),
    ("plot", "results does not exist"),
    ("rules -p nope", "unknown parametrization 'nope'"),
    ("rules -p nan_rule.toml", "lr = nan"),
    ("rules --opt muon", "known: adamw, sgd"),
    ("rules --mode wide", "known: head-dim, heads"),
    ("rules --width 0", "widths: 0"),
    ("rules --width 257", "width 257 is not allowed"),
]


@pytest.mark.usefixtures("_bad_things", "_no_training")
@pytest.mark.parametrize(("line", "said"), BAD_INPUT, ids=[line for line, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(tmp_path, monkeypatch, line, said):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    command, *options = line.split()
    if command in ("coord", "lr-sweep"):
        options = [*SMALL, *options] if options != ["--widths"] else options
    before = tree(tmp_path)
    answer = mupcheck(command, *options)
    assert (answer.code, answer.out) == (exits.USAGE, ""), answer.err
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert said.lower() in answer.err.lower()
    assert "Traceback" not in answer.err and "pydantic" not in answer.err
    assert tree(tmp_path) == before


def test_bad_input_looks_the_same_from_a_shell(tmp_path):
    answer = process("coord", "--lr", "nan", "--out", "here")
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err == "error: lr 'nan' is not a number above 0; write 0.001, 1e-3 or 2^-10\n"
    assert tree(tmp_path) == {}


def test_a_name_of_two_lines_is_refused_in_one(tmp_path):
    for arguments in (("rules", "-p", "two\nlines"), ("run", "two\nlines.toml"), ("plot", "two\nlines")):
        answer = mupcheck(*arguments)
        assert (answer.code, answer.out, answer.err.count("\n"), tree(tmp_path)) == (exits.USAGE, "", 1, {})


def test_a_device_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    answer = mupcheck("coord", *SMALL, "--device", "cuda")
    assert (answer.code, answer.out, tree(tmp_path)) == (exits.USAGE, "", {})
    assert answer.err == "error: device 'cuda' is not there: torch sees 0 GPUs; try cpu\n"


def test_a_backend_that_is_not_there_is_refused_before_training(tmp_path):
    if try_backend("triton", "cpu")[0]:
        pytest.skip("triton works on this machine's CPU")
    answer = mupcheck("coord", *SMALL, "--backend", "triton")
    assert (answer.code, answer.out, tree(tmp_path)) == (exits.USAGE, "", {})
    assert "triton" in answer.err and "try " in answer.err and answer.err.count("\n") == 1


def test_a_kind_is_run_by_its_own_command(made):
    answer = mupcheck("coord", "--config", made / "lr.toml", *HERE)
    assert answer.code == exits.USAGE
    assert f"is of kind 'lr'; run it with: mupcheck run {made / 'lr.toml'}" in answer.err


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(b"not Parquet at all")


def foreign(file: Path) -> None:
    pd.DataFrame({"animal": ["cat"], "legs": [4]}).to_parquet(file)


def of_another_run(file: Path) -> None:
    shutil.copy(next(other for other in sorted(file.parent.iterdir()) if other != file), file)


@pytest.mark.parametrize("damage", [cut_short, emptied, noise, foreign, of_another_run], ids=lambda f: f.__name__)
@pytest.mark.parametrize("table", ["runs", "coords"])
def test_a_parquet_file_that_is_not_ours_is_named(copied, table, damage):
    file = sorted((copied / "results" / "coord" / table).iterdir())[0]
    damage(file)
    before = tree(copied)
    answer = mupcheck("plot", copied / "results")
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1 and file.name in answer.err
    assert tree(copied) == before


def test_figures_that_cannot_be_written_are_refused(copied):
    (copied / "results" / "lr" / "figures").write_text("in the way")
    before = tree(copied)
    answer = mupcheck("plot", copied / "results" / "lr")
    assert (answer.code, answer.out, answer.err.count("\n")) == (exits.USAGE, "", 1)
    assert "cannot write to" in answer.err and tree(copied) == before


@pytest.mark.usefixtures("_no_training")
def test_names_and_paths_mean_what_they_say():
    # brackets are markup to rich, and colons emoji
    Path("rules.toml").write_text('name = "[/red] :boom:"\nbase = "sp"\nsummary = "[bold]not bold"\n')
    answer = mupcheck("rules", "-p", "rules.toml")
    assert answer.code == exits.OK and "[/red] :boom:, head-dim mode: [bold]not bold" in answer.out
    assert mupcheck("rules", "-p", "rules.toml", "--width", "512").out.startswith("[/red] :boom:, adamw")
    Path("s.toml").write_text(LR + 'question = "[/] or [blue]?"\n')
    answer = mupcheck("run", "s.toml", "--dry-run", "--out", "[/x]", *HERE)
    assert answer.code == exits.OK and "[/x]/s" in answer.out and "[/] or [blue]?" in answer.out
    answer = mupcheck("run", "s.toml", "--dry-run", *HERE, "--config=[/y]")
    assert answer.code == exits.USAGE


def test_a_verdict_of_a_table_with_brackets_is_printed(tmp_path):
    Path("rules.toml").write_text('name = "[/red]"\nbase = "mup"\n')
    Path("lr.toml").write_text(LR.replace('"gdn-mup"', '"rules.toml"'))
    answer = mupcheck("run", "lr.toml", *HERE)
    assert answer.code == exits.CANNOT_TELL, answer.err
    assert "[/red] (adamw, head-dim): cannot tell" in answer.out


# --- looks ------------------------------------------------------------------------------------------------------------


def on_a_terminal(columns: int, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run the command line on a pseudo-terminal; return its exit code and what it showed."""
    pid, shown = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color"} | environment)
        os.execv(sys.executable, [sys.executable, "-m", "mupcheck", *map(str, arguments)])
    import fcntl
    import termios

    fcntl.ioctl(shown, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(shown, 65536):
            seen += part
    os.close(shown)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def test_a_narrow_terminal_gets_colours_and_loses_nothing_but_width(made):
    Path("lr.toml").write_text(LR)
    code, shown = on_a_terminal(40, "run", "lr.toml", *HERE)
    assert code == exits.CANNOT_TELL, shown
    assert "\x1b[" in shown and "Traceback" not in shown
    assert "cannot tell" in shown and "drift" in shown


def test_no_color_is_plain_on_a_terminal_too(made):
    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    code, shown = on_a_terminal(80, *again, NO_COLOR="1")
    assert code == exits.CANNOT_TELL and "cannot tell" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"COLUMNS": "40"}, {"TERM": "dumb"}]
)
def test_a_pipe_gets_plain_text_of_one_width(made, environment):
    for arguments in (
        ("run", made / "lr.toml", "--out", made / "results", *HERE),
        ("run", made / "coord.toml", "--out", made / "results", *HERE),
        ("run", made / "lr.toml", "--out", "new", "--dry-run", *HERE),
        ("rules",),
        ("rules", "-p", "sp", "--width", "512"),
    ):
        answer = mupcheck(*arguments, **environment)
        assert "\x1b" not in answer.out + answer.err
        assert answer == mupcheck(*arguments) or "--dry-run" in arguments  # which times the machine


# --- help and completion ----------------------------------------------------------------------------------------------


def options_of(command: str) -> list:
    """Return the options and arguments of a command."""
    return typer.main.get_command(app.app).commands[command].params


def help_of(option) -> str:
    return " ".join((option.help or "").split())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_help(command):
    answer = mupcheck(*command.split(), "--help", COLUMNS="200")
    assert (answer.code, answer.err) == (exits.OK, "")
    assert mupcheck(*command.split(), "-h", COLUMNS="200") == answer
    if command:
        assert f"Example: mupcheck {command}" in answer.out
    else:
        for name in COMMANDS:
            assert re.search(rf" {name} +\S", answer.out)
        assert "--show-completion" in answer.out and "--install-completion" in answer.out


def test_the_commands_are_those_of_the_contract():
    assert set(typer.main.get_command(app.app).commands) == set(COMMANDS)


def test_no_command_shows_the_help_and_is_wrong_usage():
    answer = mupcheck()
    assert (answer.code, answer.err) == (exits.USAGE, "")
    assert "Usage" in answer.out and "lr-sweep" in answer.out


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_the_help_works(command, made, monkeypatch):
    example = re.search(r"Example: mupcheck (.*)", typer.main.get_command(app.app).commands[command].help)[1].split()
    assert example[0] == command
    monkeypatch.chdir(REPOSITORY)
    if command == "plot":
        assert example == ["plot", "results/"]
        monkeypatch.setattr("mupcheck.plots.plot_results", lambda path: [path])
    if command == "gates":
        assert example == ["gates", "results/coord"]
        monkeypatch.chdir(made)
    if command == "selftest":
        monkeypatch.setattr("mupcheck.proof.selftest.plant_faults", lambda faults, jobs: iter(()))
        monkeypatch.setattr("mupcheck.proof.selftest.repeat", lambda n, settings, jobs: iter(()))
    if command == "check":
        assert example == ["check", "results/", "--baseline", "sweeps/baseline.txt"]
        example = ["check", str(made / "results" / "coord"), "--expect", "fail"]
    if command in ("coord", "lr-sweep", "run"):
        example += ["--dry-run", "--out", str(made / "elsewhere")]
    # the check made here is of sp, which tells nothing of the gates
    assert mupcheck(*example).code == (exits.CANNOT_TELL if command == "gates" else exits.OK)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_is_without(command):
    without_default = {"--config", "--width", "--dry-run", "--json", "--strict", "--all", "--help", "file", "path"}
    without_default |= {"site", "--update-baseline"}  # the latter not for the environment: it changes a file
    for option in options_of(command):
        text = help_of(option)
        assert text, option.opts
        if option.opts[0] not in without_default:
            assert re.search(r"\(default: .+\)$", text), option.opts
        if option.opts[0] not in without_default - {"--config"}:
            assert option.envvar == "MUPCHECK_" + option.opts[0][2:].replace("-", "_").upper()


def stated(text: str, kind: str, device: str, optimizer: str) -> str:
    """Return what a help text says the default is: "(default: coord A; lr-sweep B (adamw) or C (sgd), on a GPU D)"."""
    text = re.search(r"\(default: (.*)\)$", text)[1]
    if text.startswith("coord "):
        text = text.split("; ")[kind == "lr"].split(" ", 1)[1]
    on_cpu, _, on_gpu = text.removeprefix("on a CPU ").partition(", on a GPU ")
    text = on_gpu if on_gpu and device == "cuda" else on_cpu
    if " or " in text and "(sgd)" in text:
        text = text.split(" or ")[optimizer == "sgd"].removesuffix(f" ({optimizer})")
    return text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("command", "options"), [("coord", COORD_OPTIONS), ("lr-sweep", LR_OPTIONS)])
def test_the_defaults_in_the_help_are_the_defaults(command, options, optimizer, device):
    kind = "coord" if command == "coord" else "lr"
    defaults = make_sweep({"kind": kind, "optimizer": optimizer}, device=device)
    elsewhere = {"--base-width": "smallest width", "--name": "coord or lr", "--warmup": "a tenth of the steps"}
    elsewhere |= {"--steps": "the last step to record"} if kind == "coord" else {}
    checked = 0
    for option in options_of(command):
        name = option.opts[0]
        if name not in options:
            continue
        said, value = stated(help_of(option), kind, device, optimizer), getattr(defaults, options[name][1])
        if name in elsewhere:
            assert elsewhere[name] in said
        elif name in ("--lr", "--lrs"):
            assert parse_lrs(said) == value
        elif name == "--opt":
            assert said == "adamw"
        elif name in ("--tied", "--refine", "--top-up"):
            assert (said == name[2:]) == value
        elif name == "--seeds":
            assert int(said) == len(value)
        elif name == "--vocab-size":
            assert said.startswith("256") and value is None
        elif isinstance(value, tuple):
            assert said == ",".join(map(str, value)), name
        elif isinstance(value, float):
            assert float(said) == value, name
        else:
            assert said == str(value), name
        checked += 1
    assert checked == len(options)
    assert make_sweep({"kind": kind}, device=device).optimizer == "adamw"
    if kind == "lr":
        assert defaults.warmup_steps == defaults.steps // 10


def test_the_values_in_the_help_are_those_allowed():
    texts = {option.opts[0]: help_of(option) for command in ("coord", "lr-sweep") for option in options_of(command)}
    for name, key in (
        ("--opt", "optimizer"),
        ("--mode", "mode"),
        ("--decay-mode", "decay_mode"),
        ("--dtype", "dtype"),
        ("--backend", "backend"),
        ("--schedule", "schedule"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            make_sweep({"kind": "lr", key: "?"})
        for value in re.findall(r"'([\w-]+)'", str(caught.value)):
            assert value in texts[name], name


def test_completion_completes():
    # behind the name that a shell completes
    start = "import sys; from mupcheck.cli.app import main; sys.argv = ['mupcheck']; main()"

    def complete(line: str) -> set[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_MUPCHECK_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-c", start], capture_output=True, text=True, env=os.environ | words, timeout=60
        )
        assert done.stderr == ""
        return set(done.stdout.split())

    assert complete("mupcheck lr") == {"lr-sweep"}
    assert complete("mupcheck coord --wi") == {"--widths"}
