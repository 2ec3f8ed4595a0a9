"""The command line as a user meets it: answers, exit codes, one line for every fault, and help that tells the truth."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from commands import mupcheck
from small_sweeps import HERE, LR, REPOSITORY, SMALL, process, tree

from mupcheck.cli import exits
from mupcheck.theory.parametrization import MODES, TABLES

# --- from options to answer -------------------------------------------------------------------------------------------


def test_smoke_runs_from_a_shell_to_a_verdict(tmp_path):
    answer = process("run", REPOSITORY / "sweeps" / "smoke.toml", "--out", tmp_path, "--device", "cpu")
    assert answer.code in (exits.OK, exits.CANNOT_TELL)
    assert "Traceback" not in answer.err and "\x1b" not in answer.out + answer.err
    assert "36 of 36 runs to train" in answer.err and "done in" in answer.err
    again = mupcheck("run", REPOSITORY / "sweeps" / "smoke.toml", "--out", tmp_path, *HERE)
    assert (again.code, again.out) == (answer.code, answer.out)
    everything = mupcheck("run", REPOSITORY / "sweeps" / "smoke.toml", "--out", tmp_path, *HERE, "--all").out
    assert len(everything.splitlines()) > len(answer.out.splitlines())
    for name in ("sp-fanin", "gdn-mup"):
        (sentence,) = re.findall(rf"^{name}: .*: (?:transfers|drifts|cannot tell)$", answer.out, re.MULTILINE)
        assert sentence in everything
        assert re.findall(rf"^ {name} +(\d+) ", answer.out, re.MULTILINE) == ["16", "32", "64"]
        page = everything[
            everything.index(
                f"{name}, learning-rate sweep smoke: adamw, head-dim, widths 16, 32, 64 (base 16), 2 seeds"
            ) :
        ]
        verdict = rf"^{name} \(adamw, head-dim\): (transfers|drifts|cannot tell)\n  (.*\n  )?drift"
        assert re.search(verdict, page, re.MULTILINE)
    assert len(list((tmp_path / "smoke" / "runs").glob("*.parquet"))) == 36
    assert json.loads((tmp_path / "smoke" / "sweep.json").read_text())["question"].endswith("?")
    assert not (tmp_path / "smoke" / "coords").exists()


def test_a_coordinate_check_shows_its_verdict_table(made):
    answer = mupcheck("run", made / "coord.toml", "--out", made / "results", *HERE)
    assert answer.code == exits.FAILED
    assert "sp: the verdict is 'fail', expected 'pass'" in answer.err
    assert re.search(r"^sp \(adamw, head-dim\): fail ", answer.out, re.MULTILINE)
    for word in ("site", "slope", "interval", "required", "verdict", "effective_update rms", "down_proj"):
        assert word in answer.out
    everything = mupcheck("run", made / "coord.toml", "--out", made / "results", *HERE, "--all")
    assert len(everything.out.splitlines()) > len(answer.out.splitlines())
    assert {"quantity", "implied"} <= set(everything.out.split())
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
    # a coordinate check of no given number of seeds tops itself up, which its cost does not hold
    said = "the top-up goes up to 64 seeds and 2 more widths, in 10 minutes, not counted here\n" * (
        arguments[0] == "coord"
    )
    assert (answer.code, answer.err, tree(tmp_path)) == (exits.OK, said, {})
    for word in ("parameters", "FLOPs", "GiB", "nothing was trained", "runs to train"):
        assert word in answer.out
    as_json = mupcheck(*arguments, "--dry-run", "--json", *HERE)
    assert (as_json.code, as_json.err, tree(tmp_path)) == (exits.OK, said, {})
    plan = as_json.json
    assert plan["runs"] == sum(row["runs"] for row in plan["widths"]) == sum(row["missing"] for row in plan["widths"])
    assert plan["flops"] > 0 and plan["seconds"] > 0
    for row in plan["widths"]:
        assert row["n_params"] > row["width"] ** 2 and row["group_bytes"] > row["n_params"]


def test_plot_prints_the_files_it_wrote(copied):
    before = set(tree(copied))
    answer = mupcheck("plot", copied / "results")
    assert answer.code == exits.OK
    assert " with --all: " in answer.err and answer.err.count("\n") == 1
    written = {str(Path(line).relative_to(copied)) for line in answer.out.splitlines()}
    assert {path for path in set(tree(copied)) - before if "." in path} == written
    assert {Path(path).suffix for path in written} == {".png", ".svg"}
    assert {path.split("/")[1] for path in written} == {"coord", "lr"}
    one = mupcheck("plot", copied / "results" / "lr", "--json")
    assert [Path(path).parent.parent.name for path in one.json] == ["lr"] * len(one.json)
    assert {str(Path(path).relative_to(copied)) for path in one.json} <= written


def test_plot_writes_what_is_asked_for_where_it_is_asked_for(copied, monkeypatch):
    before = tree(copied / "results")
    monkeypatch.setenv("MUPCHECK_OUT", str(copied / "results"))  # of sweeps, not of figures
    answer = mupcheck("plot", copied / "results" / "lr", "--out", copied / "elsewhere", "--only", "loss_vs_lr")
    names = [str(copied / "elsewhere" / f"loss_vs_lr.{end}") for end in ("png", "svg")]
    assert (answer.code, answer.err, answer.out.split()) == (exits.OK, "", names)
    assert tree(copied / "results") == before
    everything = mupcheck("plot", copied / "results" / "lr", "--out", copied / "elsewhere", "--all")
    assert (everything.code, everything.err) == (exits.OK, "") and len(everything.out.split()) > 4
    wrong = mupcheck("plot", copied / "results" / "lr", "--out", copied / "elsewhere", "--only", "loss")
    assert wrong.code == exits.USAGE and wrong.err.count("\n") == 1 and "known: loss_vs_lr" in wrong.err


def test_plot_draws_for_a_paper_and_in_the_formats_asked_for(copied, monkeypatch):
    results, out = copied / "results", copied / "elsewhere"
    answer = mupcheck("plot", results / "lr", "--out", out, "--style", "paper")
    names = [f"paper_loss_vs_lr_{columns}.{end}" for columns in ("single", "double") for end in ("pdf", "png", "txt")]
    assert (answer.code, answer.err, answer.out.split()) == (exits.OK, "", [str(out / name) for name in names])
    assert set(tree(out)) == set(names)
    asked = ("plot", results / "lr", "--out", out / "more", "--only", "loss_vs_lr", "--format", "svg,pdf", "--json")
    assert [Path(file).name for file in mupcheck(*asked).json] == ["loss_vs_lr.svg", "loss_vs_lr.pdf"]
    monkeypatch.setenv("MUPCHECK_STYLE", "paper")
    assert [Path(file).suffix for file in mupcheck(*asked).json] == [".svg", ".pdf", ".txt"] * 2
    before = tree(copied)
    no_format = "'jpg' is no format of figures; formats are png, svg, pdf"
    no_style = "'poster' is no style of figures; styles are page, paper"
    for wrong, said in ((("--format", "jpg"), no_format), (("--style", "poster"), no_style)):
        refused = mupcheck("plot", results / "lr", "--out", out / "new", *wrong)
        assert (refused.code, refused.out, refused.err.count("\n")) == (exits.USAGE, "", 1)
        assert said in refused.err and tree(copied) == before


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
