"""The least work of the op: the published table of floors, and the laws that any such count obeys."""

import pytest

from mupcheck.bench import floors
from mupcheck.bench.op import PAPER_SHAPES

# one layer at 32 x 1024 tokens and 6 heads: GFLOP forward and backward, least microseconds at 790 TFLOP/s, and GB in
# bfloat16 (shared design notes, "The work and its floors"; the figures there have two or three digits)
UNITS = 32 * 1024 * 6
TABLE = {
    (32, 64): (8.5, 25, 42, 0.23),
    (64, 128): (21, 60, 103, 0.51),
    (128, 256): (62, 168, 290, 1.21),
    (192, 384): (121, 327, 567, 2.12),
}


@pytest.mark.parametrize(("head", "published"), TABLE.items())
def test_the_floors_are_the_published_ones(head, published):
    forward, backward, microseconds, gigabytes = published
    flops, n_bytes = floors.both(*head)
    assert floors.forward_flops(*head) * UNITS / 1e9 == pytest.approx(forward, abs=0.5)
    assert round(floors.backward_flops(*head) * UNITS / 1e9) == backward
    assert round(flops * UNITS / 790e12 * 1e6) == microseconds
    assert round(n_bytes * UNITS / 1e9, 2) == gigabytes
    # and a count that forgets the backward pass is not
    assert round(floors.forward_flops(*head) * UNITS / 790e12 * 1e6) != microseconds


def test_backward_is_some_three_times_forward():
    for head in PAPER_SHAPES:
        assert 2.6 < floors.backward_flops(*head) / floors.forward_flops(*head) < 3.0


def test_the_floor_is_what_takes_longer():
    rates = {"flops_per_second": 100.0, "bytes_per_second": 10.0}
    assert floors.least_seconds(1000, 10, **rates) == 10
    assert floors.least_seconds(10, 1000, **rates) == 100


def test_float32_moves_twice_the_bytes_but_for_the_gates():
    for head in PAPER_SHAPES:
        assert floors.both(*head, 4)[1] - 24 == 2 * (floors.both(*head, 2)[1] - 24)


def test_a_step_is_six_operations_a_weight_and_the_delta_rule():
    from mupcheck.bench.step import CPU, runs_of
    from mupcheck.model.build import build_model

    spec = runs_of(CPU, 64, "chunk", n=1)[0]
    model = build_model(spec, "meta")
    matrices = [p for name, p in model.named_parameters() if p.dim() == 3 and "conv" not in name]
    weights = sum(p.numel() for p in matrices) - model.embedding.weight.numel()
    shape = {"n_layers": 2, "n_heads": 6, "key_dim": 8, "value_dim": 16, "vocab": 256, "mlp": 4}
    gain = 6 * 16 * 2  # the gains [R, V] of heads are no matrices, but have no other mark here
    rule = 2 * 6 * floors.both(8, 16)[0]
    assert floors.step_flops(64, **shape) - rule == pytest.approx(6 * weights, abs=6 * gain)
