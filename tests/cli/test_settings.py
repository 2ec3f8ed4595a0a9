"""Options, environment, file and default, in this order; where they lead."""

import json
import re
from pathlib import Path

import pytest
from commands import mupcheck
from every_option import APART, COORD_OPTIONS, LR_OPTIONS, options_of
from small_sweeps import HERE, LR, tree

from mupcheck.cli import exits
from mupcheck.coordinates.slopes import fit_group
from mupcheck.coordinates.validity import _missing

# --- options, environment, file ---------------------------------------------------------------------------------------


def planned(*arguments: object, **environment: str) -> dict:
    """Return the sweep that a command would run."""
    answer = mupcheck(*arguments, "--dry-run", "--json", **environment)
    assert answer.code == exits.OK, answer.err
    return answer.json["sweep"]


@pytest.mark.parametrize(("command", "options"), [("coord", COORD_OPTIONS), ("lr-sweep", LR_OPTIONS)])
def test_options_environment_and_file_give_the_same_sweep(command, options):
    assert {option.opts[0] for option in options_of(command)} - APART == set(options) - APART
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
    assert planned("coord", *file, MUPCHECK_LRS="1,2")["lrs"] == planned("coord")["lrs"]
    assert planned("coord", *file, MUPCHECK_N_LAYERS="3")["n_layers"] == 3
    assert planned("coord", *file, MUPCHECK_LAYERS="2", MUPCHECK_N_LAYERS="3")["n_layers"] == 2
    assert planned("run", "file.toml")["batch_size"] == 3
    assert planned("run", "file.toml", **variable)["batch_size"] == 5


def test_a_sweep_with_missing_or_diverged_runs_does_not_pass(tmp_path, monkeypatch):
    Path("sweep.toml").write_text(
        'kind = "coord"\ndata = "synthetic"\nwidths = [16, 32, 64]\nn_heads = 2\nseeds = 2\nrecord = [0, 1]\n'
    )
    # three tiny widths decide nothing by themselves
    fit = "mupcheck.coordinates.judge.fit_group"
    monkeypatch.setattr(fit, lambda *a, **options: fit_group(*a, **options).assign(verdict="pass", as_implied=True))
    monkeypatch.setattr("mupcheck.coordinates.validity.PARTS", (_missing,))
    assert mupcheck("run", "sweep.toml", *HERE).code == exits.OK
    runs = sorted(Path("results/sweep/runs").glob("*.parquet"))
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda plan, jobs: iter(()))
    runs[0].unlink()
    answer = mupcheck("run", "sweep.toml", *HERE)
    assert answer.code == exits.CANNOT_TELL
    assert "why: 1 of 6 runs of sweep is missing; to complete it: mupcheck run sweep.toml" in answer.out


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
    again = mupcheck(*command, "--all")
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


@pytest.mark.usefixtures("_no_training")
def test_an_error_names_what_its_user_wrote():
    Path("f.toml").write_text('kind = "coord"\ndata = "synthetic"\nn_layers = 0\n')
    Path("heads.toml").write_text('kind = "coord"\ndata = "synthetic"\nn_heads = 5\n')
    Path("data.toml").write_text('kind = "coord"\ndata = "text:none"\n')
    for arguments, environment, said in (
        (("run", "f.toml"), {}, "f.toml: n_layers = 0 is not allowed"),
        (("coord", "--config", "f.toml"), {}, "f.toml: n_layers = 0 is not allowed"),
        (("coord", "--config", "f.toml", "--layers", "-1"), {}, "--layers -1 is not allowed"),
        (("coord", "--config", "f.toml", "--n-layers", "-1"), {}, "--n-layers -1 is not allowed"),
        (("coord", "--layers", "0"), {"MUPCHECK_LAYERS": "-1"}, "--layers 0 is not allowed"),
        (("coord", "--config", "f.toml"), {"MUPCHECK_LAYERS": "-1"}, "MUPCHECK_LAYERS=-1 is not allowed"),
        (("run", "f.toml"), {"MUPCHECK_N_LAYERS": "-1"}, "MUPCHECK_N_LAYERS=-1 is not allowed"),
        (("coord", "--batch-size", "1"), {"MUPCHECK_LAYERS": "x"}, "MUPCHECK_LAYERS 'x' is not allowed"),
        (("coord",), {"MUPCHECK_WIDTHS": "16 32"}, "MUPCHECK_WIDTHS takes a list with commas: 16,32"),
        # of both: the file is named, and what can be typed as it is typed
        (
            ("coord", "--config", "heads.toml"),
            {},
            "heads.toml: n_heads=5 does not divide 3/4 of --base-width 32; give --head-k",
        ),
        (
            ("run", "heads.toml"),
            {},
            "heads.toml: n_heads=5 does not divide 3/4 of base_width=32; give head_k_dim and head_v",
        ),
        (("run", "data.toml"), {}, "data.toml: data: text:none: none does not exist"),
        (("coord", "--config", "data.toml", "--data", "text:nope"), {}, "--data: text:nope: nope does not exist"),
        (("run", "data.toml"), {"MUPCHECK_DATA": "x"}, "MUPCHECK_DATA 'x' is not one of"),
        (("coord", "-p", "sp", "--opt", "x"), {}, "--opt 'x' is not allowed"),
    ):
        answer = mupcheck(*arguments, "--device", "cpu", **environment)
        assert (answer.code, answer.out) == (exits.USAGE, "")
        assert answer.err.startswith(f"error: {said}"), answer.err
