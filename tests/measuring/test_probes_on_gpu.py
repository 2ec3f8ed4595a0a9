"""A coordinate check on a GPU has the numbers that it has on a CPU, by calls of its own: from the first value on."""

import math

import pytest
import torch

from mupcheck.measuring import shadow
from mupcheck.model.build import build_model, draw_ahead
from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training.train import train

pytestmark = pytest.mark.gpu


def test_initial_values_are_those_of_a_cpu_bit_for_bit(make_run):
    runs = [make_run(name, seed=seed, width=64) for seed, name in ((0, "sp"), (1, "sp"), (0, "gdn-mup"))]
    right = dict(build_model(runs).named_parameters())
    for ahead in (False, True):
        if ahead:
            draw_ahead(runs, "cuda:0")
        found = dict(build_model(runs, "cuda").named_parameters())
        assert all(torch.equal(found[name].cpu(), value) for name, value in right.items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_recorded_is_what_a_cpu_records(corpus, make_run, optimizer):
    shape = {"kind": "coord", "probes": "full", "record": (0, 1, 3), "steps": 3, "n_layers": 2, "width": 64}
    runs = [make_run(seed=seed, optimizer=optimizer, backend="chunk", **shape) for seed in range(3)]

    def recorded(device):
        rows = (cell for row in train(runs, corpus, device=device) for cell in row.coords)
        return {(c.step, c.layer, c.site, c.kind, c.stat): c.values for c in rows}

    right, found = recorded("cpu"), recorded("cuda")
    assert found.keys() == right.keys() and len(right) > 500
    for place, values in right.items():
        if place[4] == "applied_misfit":
            assert found[place] == values == [0.0] * 3, place
        elif not place[4].startswith("applied"):
            # float32 sums in another order; what is left of gradients that cancel was off by 8e-4 octaves at most
            assert found[place] == pytest.approx(values, rel=5e-3, abs=1e-12), place
    assert all(math.isfinite(value) for values in found.values() for value in values)


def test_weights_of_one_shape_go_together_there(make_run):
    runs = [make_run(n_layers=2, probes="full", kind="coord", record=(0, 1), steps=1)]
    alone, together = (shadow.Shadow(build_model(runs, device), runs) for device in ("cpu", "cuda"))
    assert len(alone.stacks) == alone.n_weights == together.n_weights
    assert len(together.stacks) < together.n_weights / 2
