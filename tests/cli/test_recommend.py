"""recommend, --cost and --target: the lr of a width with every parameter's values, and what they end with."""

import json
from pathlib import Path

import pytest
import torch
from commands import mupcheck
from small_sweeps import HERE, LR

from mupcheck import ModelSpec, build_model, load_results
from mupcheck.cli import exits
from mupcheck.model.build import applied_values, parameter_groups
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import TABLES, Role, factors


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """Return the folder of a small sweep of two tables, with weight decay and an eps of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("swept")
    text = LR.replace("widths = [16, 32]", "widths = [16, 32, 64]").replace("seeds = 1", "seeds = 2")
    text = text.replace('["gdn-mup"]', '["gdn-mup", "sp-fanin"]')
    text += 'name = "swept"\nweight_decay = 0.125\neps = 1e-6\ndecay_mode = "independent"\nlogit_scale = 2.0\n'
    (folder / "lr.toml").write_text(text)
    answer = mupcheck("run", folder / "lr.toml", "--out", folder / "results", *HERE)
    assert answer.code in (exits.OK, exits.CANNOT_TELL), answer.err
    return folder / "results" / "swept"


def documents(folder, *arguments):
    return mupcheck("recommend", folder, *arguments, "--json").json


def test_every_parameter_gets_what_the_table_says(swept):
    (document,) = documents(swept, "--width", "128", "-p", "gdn-mup")
    assert document["width"] == 128 and document["base_width"] == 16
    sites = {row["site"] for row in document["parameters"]}
    assert {"embedding", "q_proj", "A_log", "o_norm_gain", "readout"} <= sites
    for row in document["parameters"]:
        of = factors(
            TABLES["gdn-mup"], Role(row["role"]), optimizer="adamw", mode="head-dim", m=8.0, decay_mode="independent"
        )
        assert row["lr"] == pytest.approx(document["lr"] * of.lr)
        assert row["eps"] == pytest.approx(1e-6 * of.eps)
        decayed = row["role"] in ("embedding", "readout", "hidden", "gate")
        assert row["weight_decay"] == pytest.approx(0.125 * of.weight_decay if decayed else 0.0)
    assert document["multipliers"]["logits"] == pytest.approx(2.0 / 8)
    assert document["multipliers"]["o_raw"] == pytest.approx(8**0.5)


def test_what_is_recommended_is_what_would_be_trained(swept):
    """The values are those of the optimizer's own groups and of the model's own weights."""
    (document,) = documents(swept, "--width", "128", "-p", "sp-fanin")
    spec = json.loads((swept / "sweep.json").read_text())["spec"]
    model_spec = {name: spec[name] for name in ("n_layers", "n_heads", "logit_scale", "weight_decay", "eps")}
    run = RunSpec(
        **model_spec, width=128, base_width=16, lr=document["lr"], seed=0, parametrization="sp-fanin",
        table=TABLES["sp-fanin"], decay_mode="independent",
    )  # fmt: skip
    model = build_model([run])
    rows = {row["site"]: row for row in document["parameters"]}
    for group in parameter_groups(model, [run]):
        row = rows[group.site]
        assert row["lr"] == pytest.approx(float(group.lr[0]) * run.lr)
        assert row["shape"] == list(group.weight.shape[1:])
        if row["init_value"] is not None:
            assert torch.all(group.weight == row["init_value"])
        elif row["init_std"]:
            # of 64 weights and more a standard deviation is known to 9%; three times that
            assert float(group.weight.detach().std()) == pytest.approx(row["init_std"], rel=0.27)


def test_pasted_python_makes_the_groups(swept):
    answer = mupcheck("recommend", swept, "--width", "64", "-p", "gdn-mup", "--format", "python")
    (document,) = documents(swept, "--width", "64", "-p", "gdn-mup")
    model = build_model(ModelSpec(width=64, base_width=16, n_heads=2))
    scope = {"torch": torch, "model": model}
    exec(answer.out, scope)
    optimizer = scope["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["betas"] == (0.9, 0.95)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(list(model.parameters())), "each parameter in one group"
    for row in document["parameters"]:
        weights = [p for name, p in model.named_parameters() if row["site"] in name.split(".")]
        for weight in weights:
            group = found[id(weight)]
            assert [group[key] for key in ("lr", "weight_decay", "eps")] == [
                row[key] for key in ("lr", "weight_decay", "eps")
            ]
    assert "# WARNING: it CANNOT be TOLD" in answer.out


def test_of_sgd_the_groups_have_no_eps():
    run = RunSpec(
        width=32, base_width=16, optimizer="sgd", parametrization="gdn-mup", table=TABLES["gdn-mup"], lr=0.5, seed=0
    )
    rows, _ = applied_values(run)
    assert {row["eps"] for row in rows} == {None}
    by_site = {row["site"]: row["lr"] for row in rows}
    assert by_site["q_proj"] == 0.5 and by_site["embedding"] == 1.0


def test_the_page_says_what_it_rests_on_and_all_tables_where_none_is_named(swept):
    answer = mupcheck("recommend", swept, "--width", "128")
    for name in ("gdn-mup (adamw, head-dim): lr ", "sp-fanin (adamw, head-dim): lr "):
        assert name in answer.out
    assert answer.out.count("WARNING: it CANNOT be TOLD") == 2
    assert answer.out.count("from learning-rate sweep swept: adamw, head-dim, widths 16, 32, 64") == 2
    assert "forward multipliers: o_raw x 2.828, logits x 0.25" in answer.out
    assert "cost: " in answer.out and "norm1_gain" in answer.out and "all 1" in answer.out
    assert len(documents(swept, "--width", "128")) == 2
    assert len(documents(swept.parent, "--width", "128")) == 2, "a results folder will do"


def test_without_an_interval_it_ends_with_3(made):
    one_seed = mupcheck("recommend", made / "results" / "lr", "--width", "64")
    assert one_seed.code == exits.CANNOT_TELL and "there is no whole interval" in one_seed.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--width -64", "--width -64 is not a width; give a whole number from 16 to 16777216"),
        ("--width 99999999999999", "--width 99999999999999 is not a width"),
        ("--width 8", "--width 8 is below the smallest width of the sweep; give one of 16 or more"),
        ("--width 100", "--width: width 100 is not allowed in head-dim mode"),
        ("--width many", "--width 'many' is not allowed: input should be a whole number"),
        ("", "Missing option '--width'"),
        ("--width 128 -p mup", "-p 'mup' is not in this sweep; there are gdn-mup, sp-fanin"),
        ("--width 128 --format yaml", "--format 'yaml' is unknown; known: table, json, python"),
        ("--width 128 --format python", "--format python writes one table, and there are gdn-mup of swept, sp-fanin"),
    ],
)
def test_bad_input_to_recommend_is_one_line(swept, arguments, said):
    answer = mupcheck("recommend", swept, *arguments.split())
    assert (answer.code, answer.out) == (exits.USAGE, "")
    assert answer.err.startswith("error: ") and said in answer.err and answer.err.count("\n") == 1


def test_recommend_needs_a_sweep_of_lrs_that_says_what_its_model_is(made, copied):
    answer = mupcheck("recommend", made / "results" / "coord", "--width", "64")
    assert answer.code == exits.USAGE and "coordinate check" in answer.err
    (copied / "results" / "lr" / "sweep.json").unlink()
    answer = mupcheck("recommend", copied / "results" / "lr", "--width", "64")
    assert answer.code == exits.USAGE and "has no sweep.json" in answer.err


# --- --cost and --target of a sweep -----------------------------------------------------------------------------------


def test_the_answer_of_a_sweep_begins_with_both_verdicts(swept):
    again = ("run", swept.parents[1] / "lr.toml", "--out", swept.parent, *HERE)
    answer = mupcheck(*again, "--target", "128")
    first, second = answer.out.splitlines()[:2]
    assert first.startswith("gdn-mup: ") and second.startswith("sp-fanin: ")
    assert "the best lr of width 16 " in first and " at 64: " in first and first.endswith(": cannot tell")
    assert answer.out.count("best lr predicted at width 128: ") == 2
    found = mupcheck(*again, "--target", "128", "--cost", "50", "--json").json
    assert [each["cost"]["tolerance"] for each in found] == [50.0, 50.0]
    assert [each["target"]["width"] for each in found] == [128, 128]
    assert found[0]["sentence"].startswith("gdn-mup: ")
    checked = mupcheck("check", swept)
    assert checked.out.count("  cost: ") == 2
    assert load_results(swept).kinds == ("lr",)


@pytest.mark.parametrize(
    ("costs", "arguments", "code"),
    [
        ("costly", (), exits.OK),
        ("costly", ("--cost", "1"), exits.FAILED),
        ("negligible", ("--cost", "1"), exits.OK),
        ("cannot tell", ("--cost", "1"), exits.CANNOT_TELL),
        ("cannot tell", ("--cost", "1", "--strict"), exits.FAILED),
        ("cannot tell", (), exits.OK),
        ("costly", ("--cost", "1", "--expect", "drifts"), exits.OK),
    ],
)
def test_the_cost_decides_the_exit_code_only_where_it_is_asked_for(monkeypatch, costs, arguments, code):
    verdict = "drifts" if "drifts" in arguments else "transfers"

    def answer(*_, **options):
        options["costs"]["gdn-mup"] = costs
        return {"gdn-mup": verdict}

    Path("s.toml").write_text(LR)
    monkeypatch.setattr("mupcheck.sweep.runner.execute", lambda *args, **options: iter(()))
    monkeypatch.setattr("mupcheck.cli.sweeps.print_answer", answer)
    found = mupcheck("run", "s.toml", *HERE, *arguments)
    assert found.code == code, found.err
    if code == exits.FAILED and costs == "costly":
        assert "costly at the largest" in found.err


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--target -8", "--target -8 is not a width; give a whole number from 16"),
        ("--target 8", "--target 8 is below the smallest width of the sweep"),
        ("--target 100", "--target: width 100 is not allowed in head-dim mode"),
        ("--target 99999999999", "--target 99999999999 is not a width"),
        ("--cost 0", "--cost 0 is no percent of the loss between 0 and 100; give one such as 1"),
        ("--cost nan", "--cost nan is no percent"),
        ("--cost -1", "--cost -1 is no percent"),
        ("--cost inf", "--cost inf is no percent"),
    ],
)
def test_bad_costs_and_targets_end_before_anything_is_trained(arguments, said):
    Path("s.toml").write_text(LR)
    for command in (("run", "s.toml"), ("lr-sweep", "--config", "s.toml")):
        answer = mupcheck(*command, *HERE, *arguments.split())
        assert (answer.code, answer.out) == (exits.USAGE, "")
        assert said in answer.err and answer.err.count("\n") == 1


@pytest.mark.usefixtures("_no_training")
def test_a_coordinate_check_has_no_cost_and_no_target(made):
    for option in ("--cost", "--target"):
        answer = mupcheck("run", made / "coord.toml", *HERE, option, "64")
        assert answer.code == exits.USAGE and f"{option} belongs to a sweep of lrs" in answer.err
    # what is set for all sweeps is none of a check's business
    assert mupcheck("run", made / "coord.toml", *HERE, "--dry-run", MUPCHECK_TARGET="64").code == exits.OK
