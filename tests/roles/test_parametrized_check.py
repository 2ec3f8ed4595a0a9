"""The check judges what parametrize() sets up: our model in plain torch, as torch makes it and under a table."""

import pytest
import torch
from plain_gdn import PlainGDN

import mupcheck
from mupcheck.spec.model import ModelSpec

WIDTHS, SEEDS = (32, 64, 128, 256), 4


def build(width):
    return PlainGDN(ModelSpec(width=width, base_width=32, mode="heads", vocab_size=64))


def parametrized(model):
    groups = mupcheck.parametrize(model, base=build(32), table="gdn-mup", optimizer="adamw", lr=2**-10, eps=1e-12)
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


@pytest.mark.slow  # 32 small trainings
def test_it_passes_under_a_table_and_fails_as_torch_makes_it(coord_check):
    good = coord_check(build, parametrized, widths=WIDTHS, seeds=SEEDS)
    assert good.verdict == "pass", good
    bad = coord_check(build, widths=WIDTHS, seeds=SEEDS)
    assert bad.verdict == "fail"
