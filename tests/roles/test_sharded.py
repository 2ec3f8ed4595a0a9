"""FSDP2: a model is sharded as ever, before parametrize() or after it, and trains as a whole one."""

import pytest
import torch
import torch.distributed as dist
from plain_gdn import PlainGDN, losses_of_plain

import mupcheck
from mupcheck.spec.model import ModelSpec

GIVEN = {"table": "mup", "optimizer": "adamw", "lr": 2**-6}


@pytest.fixture
def _one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build(width):
    torch.manual_seed(width)
    return PlainGDN(ModelSpec(width=width, base_width=16, mode="heads", vocab_size=32, tied=True))


def sharded(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)


def losses(model, groups):
    return losses_of_plain(model, torch.optim.AdamW(groups), torch.arange(20).view(2, 10), 3)


@pytest.mark.usefixtures("_one_process")
def test_a_sharded_model_trains_as_a_whole_one():
    whole, before, after = build(32), sharded(build(32)), build(32)
    expected = losses(whole, mupcheck.parametrize(whole, base=build(16), **GIVEN))
    # one process has the whole of each shard, and computes the same
    assert losses(before, mupcheck.parametrize(before, base=build(16), **GIVEN)) == expected
    mupcheck.parametrize(after, base=build(16), **GIVEN).unhook()
    sharded(after)
    assert losses(after, mupcheck.parametrize(after, base=build(16), rescale=False, **GIVEN)) == expected
