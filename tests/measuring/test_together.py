"""What goes together where calls cost more than sums says what each by itself does: updates, and shapes of the path."""

from contextlib import nullcontext

import pytest
import torch
from planted_steps import LR, around

from mupcheck.measuring import path, shadow
from mupcheck.measuring.probes import Probe
from mupcheck.model import build_model, gdn
from mupcheck.ops import gated_delta_rule
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import OPTIMIZERS, TABLES
from mupcheck.training.train import train


def seen(make_run, corpus, optimizer) -> dict:
    """Return what is recorded of the updates of two replicas, by step, layer, site and stat."""
    shape = {"kind": "coord", "probes": "full", "record": (0, 1, 3), "steps": 3, "n_layers": 2, "width": 32}
    shape |= {"optimizer": optimizer, "lr": LR[optimizer], "weight_decay": 0.1, "clip": 0.5}
    runs = [make_run(name, seed=seed, **shape) for seed, name in ((0, "gdn-mup"), (1, "sp"))]
    cells = [cell for row in train(runs, corpus) for cell in row.coords if cell.stat.startswith("applied")]
    return {(cell.step, cell.layer, cell.site, cell.stat): cell.values for cell in cells}


def down_proj_halved(optimizer, group, update, gradient, lr):
    """Take half the step of one matrix in one layer."""
    before = group.weight.clone()
    update()
    if (group.site, group.layer) == ("down_proj", 1):
        group.weight.lerp_(before, 0.5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fault", [False, True], ids=["right", "halved"])
def test_weights_of_one_shape_are_compared_together_and_in_blocks_as_alone(
    corpus, make_run, monkeypatch, optimizer, fault
):
    if fault:
        around(down_proj_halved)(monkeypatch)
    alone = seen(make_run, corpus, optimizer)
    monkeypatch.setattr(shadow, "_stacks", lambda matrices, most, real=shadow._stacks: real(matrices, 2**26))
    together = seen(make_run, corpus, optimizer)
    monkeypatch.setattr(shadow, "CPU_BLOCK", 100)
    blocks = seen(make_run, corpus, optimizer)
    for other in (together, blocks):
        assert other.keys() == alone.keys()
        for place, values in alone.items():  # float32 sums in another order, of products of which some cancel
            assert other[place] == pytest.approx(values, rel=1e-4, abs=1e-6), place
    wrong = {place[1:3] for place, values in blocks.items() if place[3] == "applied_misfit" and max(values) > 0.1}
    assert wrong == ({(1, "down_proj")} if fault else set())


@pytest.mark.parametrize("probes", ["full", "activations"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_divided_together_are_those_divided_alone(corpus, make_run, monkeypatch, probes, dtype):
    shape = {"kind": "coord", "record": (0, 1, 2), "steps": 3, "n_layers": 2, "probes": probes, "dtype": dtype}
    runs = [make_run(seed=seed, **shape) for seed in range(2)]

    def recorded():
        return [(row[:5], row.values) for step in train(runs, corpus) for row in step.coords]

    alone, init, divided = recorded(), Probe.__init__, []

    def together(self, *given, **options):
        init(self, *given, **options)
        self.together = True

    def divide(self, real=Probe._divide):
        divided.append(len(self.divisors))
        real(self)

    monkeypatch.setattr(Probe, "__init__", together)
    monkeypatch.setattr(Probe, "_divide", divide)
    for (key, sizes), (other, found) in zip(alone, recorded(), strict=True):
        assert key == other
        if key[4] == "relative_update":  # a ratio of norms, not of sizes, which have been rounded once more
            assert found == pytest.approx(sizes, rel=3e-7)
        else:
            assert found == sizes, key
    assert min(divided) > 40  # sizes that a call each divided before


def test_stacks_hold_what_has_one_shape_and_not_too_much():
    wide, tall = torch.zeros(2, 4, 8), torch.zeros(2, 8, 4)
    assert shadow._stacks([wide, tall, wide, wide], 128) == [[0, 2], [1], [3]]
    assert shadow._stacks([wide, tall, wide], 0) == [[0], [1], [2]]


@pytest.mark.parametrize("shape", [(4, 8, 3), (1, 1, 50), (3, 7, 20)])
def test_blocks_cover_each_value_once(shape):
    for most in (1, 20, 60, 10_000):
        covered = torch.zeros(shape)
        for block in shadow._blocks(shape, most):
            covered[block] += 1
            assert covered[block].numel() <= max(most, shape[2])
        assert (covered == 1).all()


def picked_of(change=lambda calls: calls) -> list[path.Picked]:
    """Return what models of three head sizes give and take, at two lengths."""
    picked = []
    for width, tokens, pairs in ((32, 16, 4), (16, 70, 2), (48, 33, 4)):
        fields = {"width": width, "base_width": 16, "vocab_size": 32, "n_layers": 2, "n_heads": 2, "seed": 3, "lr": 1.0}
        fields |= {"parametrization": "gdn-mup", "table": TABLES["gdn-mup"], "optimizer": "adamw", "backend": "chunk"}
        batch = torch.randint(32, (1, 2, tokens), generator=torch.Generator().manual_seed(tokens))
        calls = path.capture(build_model([RunSpec(**fields)]), batch, nullcontext())
        picked.append(path.through_backend(change(calls), pairs, nullcontext()))
    return picked


def test_shapes_that_go_through_the_reference_together_have_the_errors_they_have_alone(monkeypatch):
    sizes = []
    reference = path._reference
    monkeypatch.setattr(path, "_reference", lambda *of: sizes.append(of[0][0].shape) or reference(*of))
    picked = picked_of()
    alone = path.errors_of(picked)
    assert [tuple(size) for size in sizes] == [(8, 16, 1, 12), (4, 70, 1, 6), (8, 33, 1, 18)]
    sizes.clear()
    together = path.errors_of(picked, together=2**30)
    assert [tuple(size) for size in sizes] == [(20, 70, 1, 18)]
    for few, many in zip(alone, together, strict=True):
        for one, other in zip(few, many, strict=True):
            assert one[:2] == other[:2]
            # errors of 1e-7 of float32, against float64 that is summed in another order: 1e-16 of what they are of
            assert other.error == pytest.approx(one.error, rel=1e-6) and one.error > 0
            assert other.by_token == pytest.approx(one.by_token, rel=1e-6, abs=1e-12)
    sizes.clear()
    path.errors_of(picked, together=path._states(picked[:2]))
    assert [size[0] for size in sizes] == [12, 8]


def test_what_departs_departs_together_too(monkeypatch):
    def late(*inputs, **options):
        o, state = gated_delta_rule(*inputs, **options)
        return o * (1 + 0.01 * (torch.arange(o.shape[1]) == 20)[:, None, None]), state

    monkeypatch.setattr(gdn, "gated_delta_rule", late)
    found = path.errors_of(picked_of(), together=2**30)
    departing = [{each.what for each in errors if each.departs(1e-5)} for errors in found]
    assert departing[0] == set() and "o" in departing[1] and "o" in departing[2]
    assert {each.departing(1e-5) for each in found[2] if each.what == "o"} == {(20,)}
