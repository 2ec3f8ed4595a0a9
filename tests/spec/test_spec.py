"""Specs: what is refused before anything trains, how files and options become the same grid, and what names a run."""

import itertools
import json
import math
import pickle
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from mupcheck.spec.lrs import parse_lrs
from mupcheck.spec.model import ModelSpec
from mupcheck.spec.reading import load_sweep, make_sweep
from mupcheck.spec.run import NUMERICS, RunSpec, Training
from mupcheck.spec.sweep import AUTO_BACKEND, SweepSpec
from mupcheck.theory.rules_file import find_table, parse_table

SWEEPS = sorted(Path(__file__).parents[2].joinpath("sweeps").glob("*.toml"))
KINDS_AND_PLACES = list(itertools.product(("coord", "lr"), ("cpu", "cuda"), ("adamw", "sgd"), (False, True)))


def sweep(**given) -> SweepSpec:
    """Return a small sweep of kind lr, changed by keywords."""
    return make_sweep({"kind": "lr", "data": "synthetic", "widths": [16, 32], **given})


def refusal(**given) -> str:
    """Return the one line with which a sweep is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        sweep(**given)
    message = str(caught.value)
    assert message and "\n" not in message and "pydantic" not in message
    return message


def run_ids(grid: SweepSpec, **given) -> list[str]:
    return [run.run_id for run in grid.runs(**({"vocab_size": 256, "data_hash": "0" * 16} | given))]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # widths and head counts
        ({"widths": []}, "widths is empty"),
        ({"widths": [0]}, "widths: 0 is not allowed"),
        ({"widths": [-16]}, "widths: -16"),
        ({"widths": [16.0]}, "widths: 16.0"),
        ({"widths": ["16"]}, "widths: '16'"),
        ({"widths": [True]}, "widths: True"),
        ({"widths": 16}, "widths = 16"),
        ({"widths": "16,32"}, "widths = '16,32' is not allowed: input should be a list"),
        ({"widths": [16, 32, 16]}, "widths = 16, 32, 16 names a value twice"),
        ({"widths": [16, 20]}, "width 20 is not allowed in head-dim mode"),
        ({"widths": [16, 20], "mode": "heads"}, "width 20 is not allowed in heads mode"),
        ({"n_heads": 5}, "n_heads=5 does not divide 3/4 of base_width=16"),
        ({"n_heads": 0}, "n_heads = 0"),
        ({"base_width": 0}, "base_width = 0"),
        ({"base_width": 17}, "base_width=17"),
        ({"base_width": 36, "n_heads": 9}, "width 16 is not allowed"),
        ({"head_k_dim": 0}, "head_k_dim = 0"),
        # learning rates
        ({"lrs": []}, "lrs is empty"),
        ({"lrs": ""}, "lrs is empty"),
        ({"lrs": 0}, "lrs: 0"),
        ({"lrs": [0.1, 0.0]}, "lrs: 0.0"),
        ({"lrs": [-0.1]}, "lrs: -0.1"),
        ({"lrs": [math.nan]}, "lrs: nan"),
        ({"lrs": [math.inf]}, "lrs: inf"),
        ({"lrs": ["0.1"]}, "lrs: '0.1'"),
        ({"lrs": True}, "lrs: True"),
        ({"lrs": {"from": 1}}, "lrs = {'from': 1}"),
        ({"lrs": [0.1, 0.1]}, "lrs = 0.1, 0.1 names a value twice"),
        ({"lrs": "1e-3, x"}, "'x' is not a number above 0"),
        # seeds
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": -3}, "seeds = -3"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": 10**12}, "seeds = 1000000000000"),
        ({"seeds": [-1]}, "seeds: -1"),
        ({"seeds": [2**63]}, f"seeds: {2**63}"),
        ({"seeds": [1, 1]}, "names a value twice"),
        ({"seeds": True}, "seeds = True"),
        ({"seeds": 1.5}, "seeds = 1.5"),
        # tables
        ({"parametrizations": []}, "parametrizations is empty"),
        ({"parametrizations": "sp"}, "parametrizations = 'sp'"),
        ({"parametrizations": [1]}, "parametrizations: 1"),
        ({"parametrizations": ["nope"]}, "unknown parametrization 'nope'; known: sp, "),
        ({"parametrizations": ["sp", "sp"]}, "names a value twice"),
        ({"parametrizations": ["missing.toml"]}, "cannot read the rules file missing.toml"),
        # training
        ({"optimizer": "muon"}, "optimizer = 'muon' is not allowed: input should be 'adamw' or 'sgd'"),
        ({"optimizer": ["sgd"]}, "optimizer = ['sgd']"),
        ({"mode": "head_dim"}, "'head-dim' or 'heads'"),
        ({"decay_mode": "x"}, "'coupled' or 'independent'"),
        ({"schedule": "step"}, "'constant', 'cosine' or 'linear'"),
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"backend": "cuda"}, "backend = 'cuda'"),
        ({"probes": "all"}, "probes = 'all'"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"momentum": math.nan}, "momentum = nan"),
        ({"beta1": 1.0}, "beta1 = 1.0"),
        ({"beta2": -0.1}, "beta2 = -0.1"),
        ({"eps": 0.0}, "eps = 0.0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
        ({"clip": -1.0}, "clip = -1.0"),
        ({"clip": math.nan}, "clip = nan"),
        ({"clip": "off"}, "clip = 'off'"),
        ({"min_lr": -1e-5}, "min_lr = -1e-05"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": -5}, "steps = -5"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"steps": True}, "steps = True"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps=10 leaves nothing of steps=10"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seq_len": -1}, "seq_len = -1"),
        ({"batch_size": 8, "accumulation": 3}, "accumulation=3 does not divide batch_size=8"),
        ({"accumulation": 2, "probes": "full"}, "accumulation above 1"),
        ({"eval_tokens": -1}, "eval_tokens = -1"),
        ({"tied": "yes"}, "tied = 'yes'"),
        ({"tied": 1}, "tied = 1"),
        ({"logit_scale": 0.0}, "logit_scale = 0.0"),
        ({"embedding_std": -1.0}, "embedding_std = -1.0"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"data": 3}, "data = 3"),
        # names, verdicts, keys
        ({"name": ""}, "name = ''"),
        ({"name": "../up"}, "name = '../up'"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"name": ".hidden"}, "name = '.hidden'"),
        ({"name": "two words"}, "letters, digits"),
        ({"expect": {"nope": "drifts"}}, "expect names 'nope'"),
        ({"expect": {"gdn-mup": "maybe"}}, "expect: 'maybe'"),
        ({"expect": {"gdn-mup": "pass"}}, "expect = 'pass' is no verdict of a sweep of kind 'lr'; try transfers or"),
        ({"expect": "drifts"}, "expect = 'drifts' is not allowed: input should be a table"),
        ({"kind": "coordinates"}, "kind = 'coordinates'; a sweep is of kind 'coord' or 'lr'"),
        ({"kind": None}, "'coord' or 'lr'"),
        ({"kind": ["lr"]}, "'coord' or 'lr'"),
        ({"model": {"width": 3}}, "unknown key 'model'"),
    ],
    ids=lambda value: ",".join(f"{k}={str(v)[:24]}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_values_that_cannot_work_are_refused_in_one_line(given, said):
    assert said in refusal(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"record": []}, "record is empty"),
        ({"record": [-1]}, "record: -1"),
        ({"record": [0, 0]}, "record = 0, 0 names a value twice"),
        ({"record": 3}, "record = 3"),
        ({"lrs": [0.1, 0.2]}, "a coordinate check takes one lr, not 2"),
        ({"refine": True}, "refine belongs to a sweep of lrs"),
        ({"expect": {"gdn-mup": "drifts"}}, "try pass or fail"),
        ({"probes": "none"}, "probes = 'none' measures nothing"),
        ({"record": [0, 4], "steps": 3}, "record names step 4, beyond steps=3"),
        ({"record": [0, 2], "warmup_steps": 2}, "warmup_steps=2 leaves nothing"),
    ],
)
def test_a_coordinate_check_refuses_what_it_cannot_use(given, said):
    assert said in refusal(kind="coord", **given)


def test_an_unknown_key_is_refused_with_all_known_ones():
    message = refusal(learning_rates=[0.1])
    assert message.startswith("unknown key 'learning_rates'; known: ")
    assert message.partition("known: ")[2].split(", ") == sorted(SweepSpec.model_fields)


def test_a_grid_too_large_to_mean_it_is_refused_at_once():
    # each list is allowed alone
    assert "200,000 runs" in refusal(seeds=100_000, lrs=[0.1], parametrizations=["sp"])
    assert "larger factor" in refusal(lrs="1e-9:1:1.00001")


def test_two_tables_of_one_name_are_refused(tmp_path):
    paths = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for path, lr in zip(paths, (0, 1), strict=True):
        path.write_text(f'name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gate"\nlr = {lr}\n')
    assert "two parametrizations have the same name" in refusal(parametrizations=[str(path) for path in paths])


@pytest.mark.parametrize("cls", [ModelSpec, RunSpec])
def test_a_model_without_a_base_width_is_refused(make_run, cls):
    fields = {name: getattr(make_run(), name) for name in cls.model_fields}
    assert cls(**fields)
    for name in ("width", "base_width"):
        with pytest.raises(ValueError, match=f"{name}\n.*Field required"):
            cls(**{key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_the_widths_that_a_refusal_suggests_are_allowed(mode):
    refused = 0
    for width, base, heads in itertools.product(range(1, 80), (16, 24, 40), (1, 2, 3)):
        shape = {"base_width": base, "n_heads": heads, "mode": mode, "head_k_dim": 6, "head_v_dim": 10}
        try:
            ModelSpec(width=width, **shape)
        except ValidationError as error:
            refused += 1
            for each in str(error.errors()[0]["msg"]).partition("; try ")[2].split(" or "):
                ModelSpec(width=int(each), **shape)
    assert refused > 100


# --- head sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [256, 512, 768, 1024, 1536])
def test_head_sizes_are_the_paper_s(width):
    # 6 heads, K = d/8, V = d/4; in heads mode K and V stay and H grows
    shape = {"width": width, "base_width": 256, "n_heads": 6, "head_k_dim": 32, "head_v_dim": 64}
    assert ModelSpec(**shape).heads == (6, width // 8, width // 4)
    assert ModelSpec(**shape, mode="heads").heads == (6 * width // 256, 32, 64)


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_head_sizes_follow_from_the_base_width_alone(mode):
    for base, heads in ((64, 4), (32, 2), (48, 3)):
        at_base = ModelSpec(width=base, base_width=base, n_heads=heads, mode=mode)
        assert at_base.heads == at_base.base_heads == (heads, 3 * base // (4 * heads), 6 * base // (4 * heads))
        assert at_base.m == 1
        wide = ModelSpec(width=4 * base, base_width=base, n_heads=heads, mode=mode)
        assert wide.m == 4
        h, k, v = at_base.base_heads
        assert wide.heads == ((h, 4 * k, 4 * v) if mode == "head-dim" else (4 * h, k, v))
        # either way the mixer is as wide as the other one
        assert wide.heads[0] * wide.heads[1] == 4 * h * k


def test_a_width_below_the_base_width_is_a_width_too():
    assert ModelSpec(width=32, base_width=64, n_heads=4).heads == (4, 6, 12)
    assert ModelSpec(width=32, base_width=64, n_heads=4, mode="heads").heads == (2, 12, 24)


# --- learning rates ---------------------------------------------------------------------------------------------------


def test_a_grid_includes_both_ends_and_steps_by_the_factor():
    assert parse_lrs("2^-10:2^-4:2") == tuple(2.0**power for power in range(-10, -3))
    assert parse_lrs("1:8:2") == (1, 2, 4, 8)
    assert parse_lrs("0.5:0.5:2") == (0.5,)
    decade = parse_lrs("1e-3:1e-2:1.333521432163324")  # eight to a decade
    assert len(decade) == 9
    assert (decade[0], decade[-1]) == (1e-3, 1e-2)
    half_octaves = parse_lrs("2^-7:2^-2:1.4142135623730951")
    assert len(half_octaves) == 11
    assert half_octaves[-1] == 0.25  # exactly: the lr is part of a run's name
    for grid, factor in ((decade, 1.333521432163324), (half_octaves, math.sqrt(2))):
        for low, high in itertools.pairwise(grid):
            assert math.isclose(high / low, factor, rel_tol=1e-12)


def test_a_grid_ends_before_an_end_that_is_not_on_it():
    assert parse_lrs("1:7:2") == (1, 2, 4)
    contract = parse_lrs("1e-4:1e-1:2")
    assert contract == tuple(1e-4 * 2**i for i in range(10))
    assert contract[-1] <= 0.1 < 2 * contract[-1]


def test_numbers_are_read_as_people_write_them():
    assert parse_lrs("1e-3,2E-3, 0.004 ,.005") == (1e-3, 2e-3, 4e-3, 5e-3)
    assert parse_lrs("2^-7,2^-1.5,10^-3") == (2**-7, 2**-1.5, 10.0**-3)
    assert sweep(lrs=0.1).lrs == sweep(lrs=[0.1]).lrs == sweep(lrs="0.1").lrs == (0.1,)
    assert sweep(lrs=[1]).lrs == (1.0,)
    assert isinstance(sweep(lrs=[1]).lrs[0], float)


NO_NUMBERS = """
    1:2 1:2:3:4 : :: 1::2 a:b:c 1e-4:1e-1:1 1e-4:1e-1:0.5 1e-4:1e-1:-2 1e-1:1e-4:2 0:1:2 -1:1:2 1e-4:nan:2 1e-4:inf:2
    nan:1:2 1e-4:1e-1:nan 1e-300:1e300:2 1e-4:1e-1:1.0000001 x 1e-3;1e-2 2^ ^2 2^x 2^2^2 -2^0.5 0^-1 2^9999 10^-3^2
    nan inf 1e999 0x10
"""


@pytest.mark.parametrize("text", NO_NUMBERS.split())
def test_what_is_no_list_of_numbers_is_refused(text):
    message = refusal(lrs=text)
    assert any(repr(part) in message for part in (text, *text.split(":"))), message


# --- files, options, defaults -----------------------------------------------------------------------------------------

DOCUMENT = """
# Does it?
question = "Does it?"
kind = "coord"
data = "synthetic"
widths = [32, 64]
base_width = 32
parametrizations = ["sp", "mup"]
lrs = "2^-8"
seeds = 2
record = [0, 1]
weight_decay = 0
tied = true
expect = { sp = "fail" }
"""
SAME_BY_OPTIONS = {
    "question": "Does it?",
    "name": "does-it",
    "kind": "coord",
    "data": "synthetic",
    "widths": (32, 64),
    "base_width": 32,
    "parametrizations": ["sp", "mup"],
    "lrs": [0.00390625],
    "seeds": [0, 1],
    "record": (0, 1),
    "weight_decay": 0.0,
    "tied": True,
    "expect": {"sp": "fail"},
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a sweep file."""

    def write(text: str, name: str = "does-it.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_and_options_give_the_same_spec(write):
    from_file, from_options = load_sweep(write(DOCUMENT)), make_sweep(SAME_BY_OPTIONS)
    assert from_file == from_options
    assert run_ids(from_file) == run_ids(from_options)


def test_a_sweep_survives_its_json(write):
    grid = load_sweep(write(DOCUMENT))
    again = make_sweep(json.loads(json.dumps(grid.model_dump(mode="json"))))
    assert again == grid
    assert run_ids(again) == run_ids(grid)


def test_options_win_over_the_file_and_the_file_over_defaults(write):
    path = write(DOCUMENT + "batch_size = 3\n")
    grid = load_sweep(path, {"batch_size": 5, "widths": [32, 96]})
    assert (grid.batch_size, grid.widths, grid.parametrizations) == (5, (32, 96), ("sp", "mup"))
    assert load_sweep(path).batch_size == 3
    assert load_sweep(write(DOCUMENT)).batch_size == make_sweep({"kind": "coord"}).batch_size == 1
    # defaults follow what is chosen, wherever it is chosen
    assert load_sweep(write('kind = "coord"'), {"optimizer": "sgd"}).lrs == (2.0**-6,)
    assert load_sweep(write('kind = "coord"\noptimizer = "sgd"')).lrs == (2.0**-6,)
    assert load_sweep(write('kind = "coord"')).lrs == (2.0**-12,)


def test_a_sweep_is_named_as_its_file_unless_it_says_otherwise(write):
    assert load_sweep(write(DOCUMENT)).name == "does-it"
    assert load_sweep(write(DOCUMENT + 'name = "other"')).name == "other"
    assert load_sweep(write(DOCUMENT), {"name": "third"}).name == "third"


def test_a_rules_file_is_found_beside_the_sweep_file(write, tmp_path, monkeypatch):
    write('name = "mine"\nbase = "mup"\n', "mine.toml")
    path = write(DOCUMENT.replace('"mup"', '"mine.toml"'))
    monkeypatch.chdir(tmp_path.parent)
    assert [table.name for table in load_sweep(path).tables] == ["sp", "mine"]
    # one given as an option is where the user stands
    with pytest.raises(ValueError, match=r"cannot read the rules file mine\.toml"):
        load_sweep(path, {"parametrizations": ["mine.toml"]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = ", "is not valid TOML"),
        ('data = "synthetic"', "kind = None; a sweep is of kind 'coord' or 'lr'"),
        (DOCUMENT + "frob = 1", "unknown key 'frob'; known: accumulation, backend, "),
        (DOCUMENT + "[model]\nwidth = 3", "unknown key 'model'"),
        (DOCUMENT.replace("seeds = 2", 'seeds = "2"'), "seeds = '2'"),
        (DOCUMENT.replace("[0, 1]", '[0, "1"]'), "record: '1'"),
        (DOCUMENT.replace('"2^-8"', "nan"), "lrs: nan"),
        (DOCUMENT.replace('"2^-8"', "2020-01-01"), "lrs = "),
        (DOCUMENT.replace('"mup"', '"mupp"'), "unknown parametrization 'mupp'"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line_that_names_it(write, text, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_sweep(write(text))
    assert said in str(caught.value)
    assert "does-it.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, why in ((tmp_path / "missing.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=f"cannot read the sweep file {path}: {why}"):
            load_sweep(path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml is not valid TOML"):
        load_sweep(binary)


@pytest.mark.parametrize(("kind", "device", "optimizer", "tied"), KINDS_AND_PLACES)
def test_defaults_make_a_sweep_by_themselves(kind, device, optimizer, tied):
    grid = make_sweep({"kind": kind, "optimizer": optimizer, "tied": tied}, device=device)
    runs = grid.runs(vocab_size=256, data_hash="")
    assert len(runs) == len(grid.widths) * len(grid.parametrizations) * len(grid.lrs) * len(grid.seeds)
    assert grid.data == "stdlib" and "gdn-mup" in grid.parametrizations and len(grid.widths) >= 3
    assert len(grid.seeds) >= 3
    if kind == "coord":
        # theory.md section 4: what makes slopes clean
        assert grid.batch_size * grid.seq_len <= min(grid.widths) / 4
        assert (grid.warmup_steps, grid.clip, grid.weight_decay, grid.dtype) == (0, 0, 0, "float32")
        assert tied or grid.readout_std > 0
        assert max(grid.widths) / min(grid.widths) >= 8
        assert 0 in grid.record and len(grid.record) >= 3 and grid.probes == "full"
    else:
        assert len(grid.lrs) >= 5 and grid.eval_tokens > 0 and grid.probes == "none"
        assert max(grid.widths) / min(grid.widths) >= 4


@pytest.mark.parametrize("steps", [1, 5, 9, 10, 1000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_any_number_of_steps_has_a_default_warm_up(steps, device):
    assert 0 <= make_sweep({"kind": "lr", "steps": steps}, device=device).warmup_steps < steps


# --- sweeps/ ----------------------------------------------------------------------------------------------------------


def test_the_sweeps_asked_for_are_there():
    names = {path.stem for path in SWEEPS}
    assert {"smoke", "demo_coord", "demo_lr", "demo_lr_sgd", "paper_adamw", "paper_sgd"} <= names


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_opens_with_the_question_it_answers(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and "?" in first
    for device in ("cpu", "cuda"):
        grid = load_sweep(path, device=device)
        assert grid.name == path.stem
        assert grid.question.endswith("?")
        assert grid.runs(vocab_size=grid.vocab_size or 256, data_hash="")


PAPER = {
    "mode": "head-dim",
    "n_layers": 8,
    "conv_size": 4,
    "mlp_ratio": 4,
    "tied": True,
    "base_width": 256,
    "embedding_std": 0.02,
    "projection_std": 0.02,
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 2000,
    "steps": 20_000,
    "min_lr": 5e-5,
    "batch_size": 480,
    "seq_len": 1024,
    "seeds": (42,),
}


@pytest.mark.parametrize(
    ("stem", "own", "lr_ends"),
    [
        (
            "paper_adamw",
            {
                "optimizer": "adamw",
                "widths": (256, 512, 1024, 1536),
                "weight_decay": 0.1,
                "beta1": 0.9,
                "beta2": 0.95,
                "decay_mode": "coupled",
            },
            (1e-3, 2e-2),
        ),
        ("paper_sgd", {"optimizer": "sgd", "widths": (256, 512, 768, 1024), "momentum": 0.98}, (1e-1, 1.0)),
    ],
)
def test_the_paper_s_sweeps_have_the_paper_s_settings(stem, own, lr_ends):
    grid = load_sweep(SWEEPS[0].parent / f"{stem}.toml", device="cuda")
    for name, value in (PAPER | own).items():
        assert getattr(grid, name) == value, name
    assert (min(grid.lrs), max(grid.lrs)) == lr_ends
    assert 5 <= len(grid.lrs) <= 7
    for run in grid.runs(vocab_size=50257, data_hash=""):
        assert run.heads == (6, run.width // 8, run.width // 4)


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
