"""What each of several devices needs of a run that they share."""

import pytest

from mupcheck.sweep.cost import GATHERED, group_bytes, group_memory, sizes

GIB = 2**30


def wide(make_run, **changes):
    return make_run(
        **{"width": 4096, "base_width": 256, "n_layers": 24, "n_heads": 16, "batch_size": 16, "seq_len": 1024} | changes
    )


def test_weights_and_activations_divide(make_run):
    run = wide(make_run)
    one, eight = (group_memory(run, 1, devices=n) for n in (1, 8))
    assert eight.activations == pytest.approx(one.activations / 8, rel=0.01)
    gathered = eight.weights - one.weights / 8
    assert 0 < gathered < 1.1 * 4 * GATHERED * sizes(run).values / run.n_layers


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "sgd"}, {"probes": "full", "record": (0,)}, {"dtype": "bfloat16"}, {"tied": True}]
)
def test_more_devices_need_less_each(make_run, changes):
    run = wide(make_run, **changes)
    needed = [group_bytes(run, 1, devices=n) for n in (2, 4, 8, 16)]
    assert needed == sorted(needed, reverse=True) and len(set(needed)) == 4


def test_one_device_is_one_device(make_run):
    run = wide(make_run)
    assert group_bytes(run, 3) == group_bytes(run, 3, devices=1)
