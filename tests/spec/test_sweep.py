"""Specs: what is refused before anything trains, how files and options become the same grid, and what names a run."""

import itertools
import math

import pytest
from pydantic import ValidationError
from small_specs import refusal, sweep

from mupcheck.spec.lrs import parse_lrs
from mupcheck.spec.model import ModelSpec
from mupcheck.spec.run import RunSpec
from mupcheck.spec.sweep import SweepSpec

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
        ({"name": "a" * 101}, "at most 100"),
        ({"expect": {"nope": "drifts"}}, "expect names 'nope'"),
        ({"expect": {"gdn-mup": "maybe"}}, "expect: 'maybe'"),
        ({"expect": {"gdn-mup": "pass"}}, "expect = 'pass' is no verdict of a sweep of kind 'lr'; try transfers or"),
        ({"expect": "drifts"}, "expect = 'drifts' is not allowed: input should be a table"),
        ({"seeds_of": {"nope": 4}}, "seeds_of names 'nope'"),
        ({"seeds_of": {"gdn-mup": 0}}, "seeds = 0 is not a number of seeds"),
        ({"seeds_of": {"gdn-mup": []}}, "seeds_of is empty"),
        ({"seeds_of": {"gdn-mup": [0, 1, 1]}, "seeds": 2}, "seeds_of 'gdn-mup' = 0, 1, 1 names a value twice"),
        ({"seeds_of": {"gdn-mup": 2}, "seeds": 4}, "seeds_of 'gdn-mup' leaves out seed 2 of `seeds`"),
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
        ({"halving": True}, "halving belongs to a sweep of lrs"),
        ({"seeds_of": {"gdn-mup": 99}}, "seeds_of belongs to a sweep of lrs"),
        ({"expect": {"gdn-mup": "drifts"}}, "try pass or fail"),
        ({"probes": "none"}, "probes = 'none' measures nothing"),
        ({"record": [0, 4], "steps": 3}, "record names step 4, beyond steps=3"),
        ({"record": [0, 2], "warmup_steps": 2}, "warmup_steps=2 leaves nothing"),
    ],
)
def test_a_coordinate_check_refuses_what_it_cannot_use(given, said):
    assert said in refusal(kind="coord", **given)


def test_an_unknown_key_is_refused_with_all_known_ones():
    message = refusal(frob=[0.1])
    assert message.startswith("unknown key 'frob'; known: ")
    assert message.partition("known: ")[2].split(", ") == sorted(SweepSpec.model_fields)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("layers", "n_layers"),
        ("lr", "lrs"),
        ("learning_rates", "lrs"),
        ("batchsize", "batch_size"),
        ("opt", "optimizer"),
    ],
)
def test_an_unknown_key_is_told_which_is_meant(key, meant):
    assert refusal(**{key: 1}).startswith(f"unknown key {key!r}, perhaps {meant}; known: ")


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
    assert parse_lrs("2^1/2,2^(-1/2)") == (math.sqrt(2), 2**-0.5)
    assert parse_lrs("2^-7:2^-2:2^1/2") == parse_lrs("2^-7:2^-2:1.4142135623730951")
    assert sweep(lrs=0.1).lrs == sweep(lrs=[0.1]).lrs == sweep(lrs="0.1").lrs == (0.1,)
    assert sweep(lrs=[1]).lrs == (1.0,)
    assert isinstance(sweep(lrs=[1]).lrs[0], float)


NO_NUMBERS = """
    1:2 1:2:3:4 : :: 1::2 a:b:c 1e-4:1e-1:1 1e-4:1e-1:0.5 1e-4:1e-1:-2 1e-1:1e-4:2 0:1:2 -1:1:2 1e-4:nan:2 1e-4:inf:2
    nan:1:2 1e-4:1e-1:nan 1e-300:1e300:2 1e-4:1e-1:1.0000001 x 1e-3;1e-2 2^ ^2 2^x 2^2^2 -2^0.5 0^-1 2^9999 10^-3^2
    nan inf 1e999 0x10 2^1/x 2^1/0 2^/2 2^()
"""


def test_a_list_with_blanks_is_told_of_commas():
    for text in ("1e-3 2e-3", "[1e-3 2e-3]", "1e-3, 2e-3 4e-3"):
        assert "a list has commas: 1e-3,2e-3" in refusal(lrs=text)


@pytest.mark.parametrize("text", NO_NUMBERS.split())
def test_what_is_no_list_of_numbers_is_refused(text):
    message = refusal(lrs=text)
    assert any(repr(part) in message for part in (text, *text.split(":"))), message
