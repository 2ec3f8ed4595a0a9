"""The runs of a grid, what names them and what groups them."""

import itertools
import json
import pickle
import tomllib

import pytest
from pydantic import ValidationError
from small_specs import refusal, run_ids, sweep

from mupcheck.spec.model import ModelSpec
from mupcheck.spec.reading import make_sweep
from mupcheck.spec.run import NUMERICS, RunSpec, Training
from mupcheck.spec.sweep import AUTO_BACKEND, SweepSpec
from mupcheck.theory.rules_file import find_table, parse_table

# --- runs, their names and groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"record": [0, 1]}, {"probes": "full"}])
def test_a_sweep_of_lrs_has_no_probes(given):
    assert "belong to a coordinate check" in refusal(kind="lr", **given)


def test_a_grid_has_every_run_once_in_order():
    grid = sweep(parametrizations=["sp", "mup"], lrs=[0.1, 0.2], seeds=[3, 5])
    runs = grid.runs(vocab_size=300, data_hash="f" * 16)
    expected = list(itertools.product((16, 32), ("sp", "mup"), (0.1, 0.2), (3, 5)))
    assert [(run.width, run.parametrization, run.lr, run.seed) for run in runs] == expected
    assert len({run.run_id for run in runs}) == len(runs)
    assert {(run.base_width, run.vocab_size, run.data_hash, run.kind) for run in runs} == {(16, 300, "f" * 16, "lr")}
    for field in Training.model_fields:
        said = AUTO_BACKEND if field == "backend" else getattr(grid, field)
        assert {getattr(run, field) for run in runs} == {said}, field


def test_lrs_that_are_added_come_beside_the_grid_at_their_own_table_and_width():
    grid = sweep(parametrizations=["sp", "mup"], lrs=[0.1, 0.2], seeds=[3, 5])
    plain = run_ids(grid)
    runs = grid.runs(vocab_size=256, data_hash="0" * 16, added={("mup", 32): (0.15, 0.4)})
    beyond = [run for run in runs if run.lr not in (0.1, 0.2)]
    assert [(run.parametrization, run.width, run.lr, run.seed) for run in beyond] == [
        ("mup", 32, lr, seed) for lr in (0.15, 0.4) for seed in (3, 5)
    ]
    assert len(runs) == len(plain) + 4
    # they are runs as any other: a grid that has their lr has them
    assert {run.run_id for run in beyond} < set(run_ids(sweep(parametrizations=["mup"], lrs=[0.4, 0.15], seeds=[3, 5])))


def test_a_table_may_take_more_seeds_and_its_runs_are_those_of_a_sweep_of_as_many():
    one = {"lrs": [0.1, 0.2], "seeds": 2}
    more = run_ids(sweep(parametrizations=["sp", "mup"], seeds_of={"mup": [0, 1, 7]}, **one))
    alone = run_ids(sweep(parametrizations=["mup"], **one | {"seeds": [0, 1, 7]}))
    assert set(more) == {*run_ids(sweep(parametrizations=["sp"], **one)), *alone}
    assert len(more) == 2 * 2 * (2 + 3)


def test_how_many_runs_there_are_goes_by_the_seeds_of_each_table():
    grid = {"parametrizations": ["sp", "mup"], "lrs": [0.1], "seeds": 1}
    assert len(run_ids(sweep(**grid, seeds_of={"mup": 40_000}))) == 80_002
    assert "the grid has 120,002 runs" in refusal(**grid, seeds_of={"mup": 60_000})


@pytest.mark.parametrize("precision", [0.0, -0.25, "fine"])
def test_a_precision_that_is_no_distance_is_refused(precision):
    assert "precision" in refusal(kind="lr", refine=True, precision=precision)


def test_a_coordinate_check_trains_up_to_its_last_recorded_step():
    for record, steps in (([0, 1, 3], 3), ([5, 2], 5), ([0], 1)):
        runs = make_sweep({"kind": "coord", "record": record}).runs(vocab_size=256, data_hash="")
        assert {(run.steps, run.record, run.kind) for run in runs} == {(steps, tuple(record), "coord")}
    assert make_sweep({"kind": "coord", "steps": 3}).record == (0, 1, 2, 3)
    assert make_sweep({"kind": "coord", "record": (0, 5)}).steps == 5
    assert make_sweep({"kind": "coord", "steps": 30, "record": [1]}).runs(vocab_size=256, data_hash="")[0].steps == 30


def test_the_base_width_is_the_smallest_unless_given():
    assert {run.base_width for run in sweep(widths=[32, 16]).runs(vocab_size=256, data_hash="")} == {16}
    grid = sweep(widths=[32, 16], base_width=64)
    assert {run.base_width for run in grid.runs(vocab_size=256, data_hash="")} == {64}


OTHER_VALUES = {
    "halving": True,
    "mode": "heads",
    "n_layers": 2,
    "n_heads": 1,
    "head_k_dim": 4,
    "head_v_dim": 4,
    "mlp_ratio": 2,
    "conv_size": 3,
    "tied": True,
    "embedding_std": 0.5,
    "projection_std": 0.02,
    "projection_factor": 2.0,
    "conv_std": 0.25,
    "readout_std": 0.5,
    "logit_scale": 2.0,
    "norm_eps": 1e-5,
    "width": 48,
    "base_width": 32,
    "vocab_size": 64,
    "optimizer": "sgd",
    "momentum": 0.8,
    "beta1": 0.8,
    "beta2": 0.99,
    "eps": 1e-6,
    "weight_decay": 0.1,
    "decay_mode": "independent",
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 1,
    "min_lr": 1e-5,
    "steps": 5,
    "batch_size": 4,
    "seq_len": 8,
    "accumulation": 2,
    "eval_tokens": 64,
    "eval_every": 2,
    "data": "synthetic",
    "dtype": "bfloat16",
    "backend": "reference",
    "probes": "activations",
    "kind": "coord",
    "parametrization": "another",
    "lr": 0.5,
    "seed": 7,
    "data_hash": "another",
    "record": (1,),
}


def test_every_field_changes_the_name_of_a_run(make_run):
    assert set(OTHER_VALUES) == set(RunSpec.model_fields) - {"table"}
    run = make_run(width=32)
    names = {"": run.run_id}
    for field, value in OTHER_VALUES.items():
        fields = {name: getattr(run, name) for name in RunSpec.model_fields}
        assert fields[field] != value
        names[field] = RunSpec(**(fields | {field: value})).run_id
    assert len(set(names.values())) == len(names)
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names.values())


def test_a_rule_changes_the_name_of_the_runs_that_see_it(make_run):
    rules = [{"role": "gate", "optimizer": "sgd", "lr": 3}]
    changed = parse_table({"name": "gdn-mup-2", "base": "gdn-mup", "rule": rules}, "")
    same = parse_table({"name": "gdn-mup-2", "base": "gdn-mup"}, "elsewhere")
    for optimizer, differs in (("adamw", False), ("sgd", True)):
        names = [make_run(table=table, optimizer=optimizer).run_id for table in (same, changed)]
        assert (names[0] != names[1]) == differs


def test_a_change_of_the_numerics_changes_every_name(make_run, monkeypatch):
    before = make_run().run_id
    monkeypatch.setattr("mupcheck.spec.run.NUMERICS", NUMERICS + 1)
    assert make_run().run_id != before


def test_equal_specs_have_equal_names_in_every_process(make_run):
    run = make_run()
    assert run == make_run()
    assert run.run_id == make_run().run_id == pickle.loads(pickle.dumps(make_run())).run_id
    assert make_run(lr=1).run_id == make_run(lr=1.0).run_id
    assert make_run(weight_decay=0).run_id == make_run(weight_decay=0.0).run_id


def test_what_does_not_determine_a_result_does_not_change_names():
    before = run_ids(sweep())
    for given in (
        {"name": "other"},
        {"question": "other?"},
        {"expect": {"gdn-mup": "transfers"}},
        {"backend": "chunk"},  # what auto picks
        {"base_width": 16},  # what it is anyway
        {"refine": True, "precision": 0.5},  # how a sweep goes on, not what its runs are
    ):
        assert run_ids(sweep(**given)) == before, given
    assert run_ids(sweep(), data_hash="1" * 16) != before


def test_a_larger_grid_keeps_the_names_of_the_smaller_one():
    small = sweep(lrs=[0.1], seeds=1, parametrizations=["mup"], widths=[16, 32])
    large = sweep(lrs=[0.2, 0.1], seeds=3, parametrizations=["sp", "mup"], widths=[64, 32, 16])
    assert set(run_ids(small)) < set(run_ids(large))
    # another base width is another model at every width
    assert not set(run_ids(small)) & set(run_ids(sweep(lrs=[0.1], seeds=1, parametrizations=["mup"], base_width=64)))


def test_runs_of_a_group_differ_in_parametrization_lr_and_seed_only(make_run):
    runs = sweep(parametrizations=["sp", "mup"], lrs=[0.1, 0.2], seeds=2).runs(vocab_size=256, data_hash="")
    groups = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    assert [(len(group), {run.width for run in group}) for group in groups.values()] == [(8, {16}), (8, {32})]
    run = make_run(width=32)
    fields = {name: getattr(run, name) for name in RunSpec.model_fields}
    free = {field for field, value in OTHER_VALUES.items() if RunSpec(**(fields | {field: value})).group == run.group}
    assert free == {"parametrization", "lr", "seed"}
    assert RunSpec(**(fields | {"table": find_table("sp")})).group == run.group


def test_specs_are_frozen_and_closed(make_run):
    run = make_run()
    model = ModelSpec(**{name: getattr(run, name) for name in ModelSpec.model_fields})
    for each, field in ((run, "lr"), (run, "width"), (model, "width"), (sweep(), "lrs"), (sweep(), "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(each, field, getattr(each, field))
        with pytest.raises(ValidationError):
            each.new_field = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelSpec(width=16, base_width=16, d_model=16)


def test_every_setting_of_a_sweep_is_described():
    undescribed = {name for name, field in SweepSpec.model_fields.items() if not field.description}
    assert undescribed <= {"name", "kind"}


def test_a_sweep_file_may_set_every_setting():
    # tomllib gives lists where a spec holds tuples
    grid = sweep(widths=[16, 32], kind="coord", lrs=[0.5], probes="full", record=[0, 1])
    text = "\n".join(
        f"{key} = {json.dumps(value)}" for key, value in json.loads(grid.model_dump_json()).items() if value
    )
    assert make_sweep(tomllib.loads(text)) == grid
