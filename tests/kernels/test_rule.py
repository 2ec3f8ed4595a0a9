"""Triton's forward kernels under its interpreter, against the recurrence in float64."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from rule_inputs import ODD_SHAPES, PAPER_SHAPES, SETTINGS, error, right, rounded, rule_inputs
from torch import Tensor

from mupcheck.ops.kernels.configs import config_of, parts_of_keys
from mupcheck.ops.kernels.rule import forward, gated_delta_rule_triton

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")

# Of the norm. float32 rounds at 6e-8, float16 at 5e-4, once in q, k, v and once in what products take: sums of some
# hundred such errors were at 5e-7 and 8e-4. (The interpreter computes float32 products as numpy does.)
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3}
TIMES = (1, 63, 64, 100)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Fill what torch.empty returns with NaN: what a kernel reads without having written it is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def run(inputs: list[Tensor], *, state: bool = True, **changes: object) -> tuple[Tensor, Tensor]:
    q, k, v, log_alpha, beta, start = inputs
    config = config_of(k.shape[-1], v.shape[-1], k.dtype)._replace(**changes)
    o, final, *_ = forward(
        q, k, v, log_alpha, beta, start if state else None, final_state=True, save=True, config=config
    )
    assert final is not None
    return o, final


def assert_right(inputs: list[Tensor], dtype: torch.dtype, **changes: object) -> None:
    low = rounded(inputs, dtype)
    for name, got, expected in zip(("o", "final state"), run(low, **changes), right(low), strict=True):
        assert error(got, expected) <= TOLERANCES[dtype], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", PAPER_SHAPES)
def test_every_shape_of_the_paper_at_every_length(shape, dtype):
    # each length meets another setting at each shape; the widest cost a second each
    settings = list(SETTINGS.values())
    for i, time in enumerate(TIMES):
        assert_right(rule_inputs(1, time, 1, *shape, **settings[(i + PAPER_SHAPES.index(shape)) % 4]), dtype)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_other_shapes_and_every_setting(shape, setting):
    assert_right(rule_inputs(1, 70, 2, *shape, **SETTINGS[setting]), torch.float32)


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("reads", [False, True])
def test_other_chunks_and_p_made_in_either_place(chunk, reads):
    for setting in ("plain", "alike, some decay"):
        inputs = rule_inputs(1, 100, 2, 48, 40, **SETTINGS[setting])
        assert_right(inputs, torch.float32, chunk=chunk, reads=reads)


@pytest.mark.parametrize("shape", [(48, 40), (24, 100)])
def test_tiles_through_descriptors_and_through_pointers(shape):
    inputs = rounded(rule_inputs(1, 100, 2, *shape, **SETTINGS["alike, some decay"]), torch.float32)
    scan = config_of(*shape, torch.float32).scan
    assert scan.loads and scan.stores
    tiled = run(inputs)
    for got, answer in zip(tiled, right(inputs), strict=True):
        assert error(got, answer) <= TOLERANCES[torch.float32]
    for loads, stores in ((False, False), (True, False), (False, True)):
        other = run(inputs, scan=scan._replace(loads=loads, stores=stores))
        assert all(torch.equal(got, expected) for got, expected in zip(other, tiled, strict=True))


@pytest.mark.parametrize("shape", [(28, 40), (32, 36)])
def test_rows_that_the_copy_engine_does_not_take(shape):
    assert_right(rule_inputs(1, 70, 1, *shape, **SETTINGS["plain"]), torch.float16)


def test_inputs_that_begin_anywhere():
    inputs = rounded(rule_inputs(1, 40, 1, 16, 16, **SETTINGS["plain"]), torch.float32)
    shifted = [torch.cat([torch.zeros(1), x.flatten()])[1:].view_as(x) for x in inputs]
    assert any(x.data_ptr() % 16 for x in shifted)
    for got, expected in zip(run(shifted), run(inputs), strict=True):
        assert torch.equal(got, expected)


def test_the_comparison_sees_a_small_fault():
    inputs = rounded(rule_inputs(1, 100, 1, 32, 64, **SETTINGS["plain"]), torch.float32)
    expected = right(inputs)
    for i, name in enumerate(("q", "k", "v", "log_alpha", "beta", "initial_state")):
        wrong = [x.clone() for x in inputs]
        wrong[i][:, :1] *= 1.01  # the first of 100 steps, or the only head of the state
        assert error(run(wrong)[0], expected[0]) > 3 * TOLERANCES[torch.float32], name


def test_where_nothing_is_written_the_way_back_can_divide_by_beta():
    inputs = rule_inputs(1, 70, 1, 16, 24, **SETTINGS["plain"])
    inputs[4][:, ::2] = 0.0
    assert_right(inputs, torch.float32)
    inputs = rounded(inputs, torch.float32)
    made = forward(*inputs, final_state=False, save=True, config=config_of(16, 24, torch.float32))
    beta = made.gates[0, 0, :, 2].flatten()[:70]
    assert (beta[::2] > 0).all() and (beta[::2] < 1e-12).all()
    assert torch.equal(beta[1::2], inputs[4][0, 1::2, 0])
    assert (made.writes[0, ::2] / beta[::2, None, None]).isfinite().all()


@pytest.mark.parametrize("time", [40, 100])
def test_without_an_initial_state_it_is_zero(time):
    inputs = rounded(rule_inputs(2, time, 1, 24, 40, **SETTINGS["plain"]), torch.float32)
    zero = [*inputs[:5], torch.zeros_like(inputs[5])]
    for got, expected in zip(run(inputs, state=False), run(zero), strict=True):
        assert torch.equal(got, expected)


def test_a_head_s_bits_do_not_depend_on_the_others():
    inputs = rounded(rule_inputs(2, 100, 3, 24, 40, **SETTINGS["plain"]), torch.float32)
    o, final = run(inputs)
    for b, h in ((0, 0), (1, 2)):
        one = [x[b : b + 1, :, h : h + 1].contiguous() for x in inputs[:5]] + [inputs[5][b : b + 1, h : h + 1]]
        o_one, final_one = run(one)
        assert torch.equal(o_one[0, :, 0], o[b, :, h])
        assert torch.equal(final_one[0, 0], final[b, h])


@pytest.mark.parametrize("place", range(6))
def test_a_nan_is_seen_and_stays_in_its_sequence(place):
    inputs = rounded(rule_inputs(2, 70, 2, 16, 32, **SETTINGS["plain"]), torch.float32)
    o, final = run(inputs)
    inputs[place][1] = torch.nan
    o_after, final_after = run(inputs)
    assert torch.equal(o_after[0], o[0])
    assert torch.equal(final_after[0], final[0])
    assert o_after[1].isnan().all()
    assert final_after[1].isnan().any() or place == 0  # the state does not hang on q


def test_what_is_kept_for_the_way_back():
    inputs = rounded(rule_inputs(1, 100, 1, 16, 24, **SETTINGS["alike, some decay"]), torch.float32)
    q, k, v, log_alpha, beta, start = inputs
    config = config_of(16, 24, torch.float32)
    made = forward(q, k, v, log_alpha, beta, start, final_state=False, save=True, config=config)
    inverse, states, writes = made.inverse, made.states, made.writes
    assert states is not None and writes is not None
    for n, first in enumerate(range(0, 100, config.chunk)):
        before = [x[:, :first] for x in inputs[:5]]
        expected = right([*before, start])[1] if n else start.double()
        assert error(states[:, :, n], expected) <= TOLERANCES[torch.float32]
        span = slice(first, min(first + config.chunk, 100))
        size = span.stop - first
        sums = log_alpha[0, span, 0].double().cumsum(0)
        keys = k[0, span, 0].double()
        decays = (sums[:, None] - sums[None, :]).exp()
        a = (beta[0, span, 0, None].double() * keys @ keys.T * decays).tril(-1)
        x = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + a)
        assert error(inverse[0, 0, n, :size, :size].tril(), x) <= TOLERANCES[torch.float32]
        recalled = sums.exp()[:, None] * keys @ expected[0, 0]
        u = x @ (beta[0, span, 0, None] * (v[0, span, 0] - recalled))
        assert error(writes[0, span, 0], u) <= TOLERANCES[torch.float32]


def test_nothing_is_kept_where_nothing_goes_back(monkeypatch):
    kept = []

    def gradients(*saved: Tensor | None, **options: object) -> tuple[Tensor | None, ...]:
        kept.append((saved, options))
        return *(torch.full_like(x, 2.0) for x in inputs[:5]), torch.full((1, 1, 16, 24), 3.0)

    monkeypatch.setitem(sys.modules, "mupcheck.ops.kernels.backward", SimpleNamespace(gradients=gradients))
    inputs = rounded(rule_inputs(1, 40, 1, 16, 24, **SETTINGS["plain"]), torch.float32)
    q, k, v, log_alpha, beta, start = (x.requires_grad_() for x in inputs)
    o, final = gated_delta_rule_triton(q, k.mT.contiguous().mT, v, log_alpha, beta, start, final_state=False)
    assert final is None
    o[..., 0].sum().backward()
    (saved, options), *more = kept
    assert not more
    assert options["gates"].shape == (1, 1, 2, 5, 32) and options["reads"] is None and options["need_initial"]
    assert all(x is None or x.is_contiguous() for x in saved)
    assert torch.equal(saved[5], torch.eye(24)[0].expand_as(o)) and saved[6] is None
    assert all((x.grad == 2.0).all() for x in (q, k, v, log_alpha, beta)) and (start.grad == 3.0).all()
    with torch.no_grad():
        without, _ = gated_delta_rule_triton(q, k, v, log_alpha, beta, start)
    assert without.grad_fn is None
    assert torch.equal(without, o)


@pytest.mark.parametrize("size", range(1, 257))
def test_keys_lie_in_one_or_two_powers_of_two(size):
    first, second = parts_of_keys(size)
    assert first >= 16 and first & (first - 1) == 0
    assert second == 0 or (16 <= second < first and second & (second - 1) == 0)
    assert size <= first + second
    assert first + second <= max(32, 1.5 * size)
