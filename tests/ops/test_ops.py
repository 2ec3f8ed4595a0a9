"""The chunked gated delta rule against the step-by-step one, and that one against the paper's equation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mupcheck.ops import chunk, gated_delta_rule

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]
NAMES = ("q", "k", "v", "log_alpha", "beta", "initial_state")
Inputs = dict[str, Tensor]


def make_inputs(
    batch: int, time: int, heads: int, key_dim: int, value_dim: int, *, state: bool = True, dtype=torch.float64
) -> Inputs:
    generator = torch.Generator().manual_seed(1000 * time + key_dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {
        "q": torch.nn.functional.normalize(normal(batch, time, heads, key_dim), dim=-1),
        "k": torch.nn.functional.normalize(normal(batch, time, heads, key_dim), dim=-1),
        "v": normal(batch, time, heads, value_dim),
        "log_alpha": -0.5 * normal(batch, time, heads).square(),
        "beta": torch.sigmoid(normal(batch, time, heads)),
    }
    if state:
        inputs["initial_state"] = normal(batch, heads, key_dim, value_dim)
    return {name: x.to(dtype) for name, x in inputs.items()}


def values_and_gradients(inputs: Inputs, backend: str, *, loss: str = "o, state") -> dict[str, Tensor]:
    """Outputs, and the gradients of a fixed random projection of those that `loss` names."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    o, final_state = gated_delta_rule(**leaves, backend=backend)
    total = torch.zeros((), dtype=final_state.dtype, device=o.device)
    for name, x in (("o", o), ("state", final_state)):
        if name in loss:
            # The projection depends on the position within a batch element only, not on the batch size.
            weights = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            total = total + (x * weights.to(x)).sum()
    total.backward()
    answer = {"o": o.detach(), "final_state": final_state.detach()}
    for name, x in leaves.items():
        answer[f"gradient of {name}"] = torch.zeros_like(x) if x.grad is None else x.grad
    return answer


def assert_agree(got: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float) -> None:
    """Compare relative to each tensor's largest entry, the scale of the sums that its rounding errors come from.

    A tensor all below 1e-10, beside losses of order one, counts as zero: decays below exp(-60) are rounded up.
    """
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert x.isfinite().all(), name
        assert got[name].isfinite().all(), name
        error = (got[name].to(x.dtype) - x).abs().max() / x.abs().max().clamp(min=1e-10)
        assert error <= tolerance, f"{name}: {error:.1e} above {tolerance:.0e}"


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        assert x.isfinite().all(), name
        assert torch.equal(got[name], x), name


def test_reference_is_the_equation_of_the_paper():
    inputs = make_inputs(2, 9, 3, 4, 6)
    o, final_state = gated_delta_rule(**inputs, backend="reference")
    q, k, v, log_alpha, beta, start = (inputs[name].numpy() for name in NAMES)
    for b in range(2):
        for h in range(3):
            state = start[b, h].T  # [V, K], as arXiv:2606.04048 eqs. 3.1 and 3.2 write it
            for t in range(9):
                key, write = k[b, t, h], beta[b, t, h]
                forget = np.exp(log_alpha[b, t, h]) * (np.eye(4) - write * np.outer(key, key))
                state = state @ forget + write * np.outer(v[b, t, h], key)
                np.testing.assert_allclose(o[b, t, h], state @ q[b, t, h], rtol=0, atol=1e-14)
            np.testing.assert_allclose(final_state[b, h], state.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        *[(2, 1, 3, 5, 7), (1, 2, 1, 3, 8), (2, 31, 1, 8, 4), (1, 32, 2, 5, 7), (2, 33, 3, 4, 4), (2, 63, 2, 5, 7)],
        *[(1, 64, 1, 5, 7), (2, 65, 1, 7, 5), (2, 100, 3, 5, 7), (1, 130, 2, 4, 6)],
    ],
)
def test_chunk_agrees_with_reference(shape, state, device):
    inputs = {name: x.to(device) for name, x in make_inputs(*shape, state=state).items()}
    # float64 rounds at 1e-16; sums of some thousand terms stay well below 1e-12.
    assert_agree(values_and_gradients(inputs, "chunk"), values_and_gradients(inputs, "reference"), tolerance=1e-12)


@pytest.mark.parametrize("time", [20, 70])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("loss", ["o", "state"])
def test_gradients_when_one_of_the_outputs_is_not_used(loss, state, time):
    inputs = make_inputs(2, time, 2, 3, 5, state=state)
    got, expected = (values_and_gradients(inputs, backend, loss=loss) for backend in ("chunk", "reference"))
    assert_agree(got, expected, tolerance=1e-12)


def test_the_comparison_sees_a_wrong_gradient():
    expected = values_and_gradients(make_inputs(2, 33, 2, 3, 5), "reference")
    for name in ("gradient of log_alpha", "gradient of initial_state"):
        wrong = dict(expected)
        wrong[name] = expected[name].clone()
        wrong[name][0, 0] *= 1 + 1e-9
        with pytest.raises(AssertionError, match=name):
            assert_agree(wrong, expected, tolerance=1e-12)


@pytest.mark.parametrize("backend", ["reference", "chunk"])
@pytest.mark.parametrize("chunk_length", [32, 2])
def test_gradcheck(backend, chunk_length, monkeypatch):
    monkeypatch.setattr(chunk, "CHUNK", chunk_length)
    monkeypatch.setattr(chunk, "LONGEST_SINGLE_CHUNK", chunk_length)
    inputs = make_inputs(1, 5, 2, 2, 3)
    leaves = [inputs[name].requires_grad_() for name in NAMES]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return gated_delta_rule(*tensors[:5], initial_state=tensors[5], backend=backend)

    assert torch.autograd.gradcheck(run, leaves)


def hard(inputs: Inputs, case: str) -> Inputs:
    """The same inputs with gates or keys that break careless arithmetic."""
    log_alpha, k = inputs["log_alpha"].clone(), inputs["k"]
    if case == "forget at every step":
        log_alpha[:] = -50.0
    elif case == "forget now and then":  # sums in the thousands beside steps of -0.01
        log_alpha = torch.where(log_alpha < -0.4, 90 * log_alpha, 0.01 * log_alpha)
    elif case == "never forget":
        log_alpha[:] = 0.0
    elif case == "alpha is 0":
        log_alpha[:, ::7] = -torch.inf
    elif case == "correlated keys":
        log_alpha *= 0.01
        common = torch.nn.functional.normalize(k[:, :1], dim=-1)
        across = torch.nn.functional.normalize(k - (k * common).sum(-1, keepdim=True) * common, dim=-1)
        k = 0.9**0.5 * common + 0.1**0.5 * across  # unit norm, cos 0.9 between any two on average
    return inputs | {"log_alpha": log_alpha, "k": k}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("time", [48, 100])
@pytest.mark.parametrize(
    "case", ["forget at every step", "forget now and then", "never forget", "alpha is 0", "correlated keys"]
)
def test_float32_keeps_its_precision_in_hard_cases(case, time, device):
    inputs = {name: x.to(device) for name, x in hard(make_inputs(2, time, 2, 12, 24), case).items()}
    # The float32 inputs, exactly, in float64.
    inputs = {name: x.float().double() for name, x in inputs.items()}
    expected = values_and_gradients(inputs, "reference")
    got = values_and_gradients({name: x.float() for name, x in inputs.items()}, "chunk")
    # float32 rounds at 6e-8, and the reference itself, run in float32, is 2e-7 to 5e-7 off.
    assert_agree(got, expected, tolerance=3e-6)


@pytest.mark.parametrize("time", [40, 100])
def test_a_step_that_forgets_everything_gets_no_gradient_from_rounding(time):
    inputs = make_inputs(2, time, 2, 12, 24, dtype=torch.float32)
    inputs["log_alpha"][:, 20] = -50.0
    gradient = values_and_gradients(inputs, "chunk")["gradient of log_alpha"]
    assert gradient[:, 20].abs().max() < 1e-18
    assert gradient[:, 21].abs().min() > 1e-6  # its neighbours do count


def test_decays_are_never_subnormal():
    # Products of subnormal numbers are about 100 times slower on a CPU.
    log_alpha = -torch.linspace(0.0, 100.0, 48).reshape(1, 48, 1)
    for decay in chunk._decays(log_alpha):
        assert decay[decay > 0].min() > 1e-27
    assert 0 < log_alpha.cumsum(1).exp()[0, 9, 0] < torch.finfo(torch.float32).tiny  # as they would be


@pytest.mark.parametrize("backend", ["reference", "chunk"])
@pytest.mark.parametrize(("time", "now"), [(40, 17), (100, 30), (100, 50)])
def test_the_future_does_not_reach_the_past(backend, time, now):
    inputs = make_inputs(2, time, 2, 4, 6)
    other = make_inputs(2, time, 2, 5, 6)
    other = {name: x[..., :4] if name in ("q", "k") else x for name, x in other.items()}
    changed = dict(inputs)
    for name in NAMES[:5]:
        changed[name] = torch.cat([inputs[name][:, :now], other[name][:, now:]], dim=1)
    before, _ = gated_delta_rule(**inputs, backend=backend)
    after, _ = gated_delta_rule(**changed, backend=backend)
    torch.testing.assert_close(after[:, :now], before[:, :now], rtol=0, atol=1e-13)
    assert (after[:, now:] - before[:, now:]).abs().amax((0, 2, 3)).min() > 1e-3  # control: the future did change

    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    o, _ = gated_delta_rule(**leaves, backend=backend)
    o[:, :now].square().sum().backward()
    for name in NAMES[:5]:
        assert leaves[name].grad[:, now:].abs().max() < 1e-13, name
        assert leaves[name].grad[:, :now].abs().max() > 1e-3, name


@pytest.mark.parametrize("backend", ["reference", "chunk"])
@pytest.mark.parametrize(("time", "cut"), [(48, 24), (100, 37), (130, 1)])
def test_two_halves_with_the_state_handed_over_are_one_run(backend, time, cut):
    inputs = make_inputs(2, time, 2, 4, 6)
    start = inputs.pop("initial_state")
    o, final_state = gated_delta_rule(**inputs, initial_state=start, backend=backend)
    first, second = ({name: x[:, part] for name, x in inputs.items()} for part in (slice(cut), slice(cut, None)))
    o_first, between = gated_delta_rule(**first, initial_state=start, backend=backend)
    o_second, end = gated_delta_rule(**second, initial_state=between, backend=backend)
    torch.testing.assert_close(torch.cat([o_first, o_second], dim=1), o, rtol=0, atol=1e-13)
    torch.testing.assert_close(end, final_state, rtol=0, atol=1e-13)
    o_without, _ = gated_delta_rule(**second, backend=backend)
    assert (o_without - o_second).abs().max() > 1e-3  # control: the state matters


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *[((5, 48, 2, 12, 24), torch.float32), ((4, 33, 1, 5, 7), torch.float32), ((4, 1, 3, 5, 7), torch.float32)],
        *[((3, 100, 3, 5, 7), torch.float32), ((5, 16, 2, 48, 96), torch.float32), ((3, 65, 1, 5, 7), torch.float64)],
    ],
)
def test_a_batch_element_depends_on_no_other_in_a_single_bit(shape, dtype, state):
    inputs = make_inputs(*shape, state=state, dtype=dtype)
    together = values_and_gradients(inputs, "chunk")
    # a head whose rows fill no whole vector registers lies at another place in memory when it is alone, and some matrix
    # libraries (MKL on an AMD EPYC) then sum in another order
    whole = shape[3] % 4 == 0 and shape[4] % 8 == 0
    for i in range(shape[0]):
        alone = values_and_gradients({name: x[i : i + 1] for name, x in inputs.items()}, "chunk")
        mine = {name: x[i : i + 1] for name, x in together.items()}
        if whole:
            assert_equal(alone, mine)
        for name, x in mine.items():
            assert (alone[name] - x).abs().max() <= 64 * torch.finfo(dtype).eps * x.abs().max(), name

    for poison in (torch.nan, 0.5):
        poisoned = {name: x.index_fill(0, torch.tensor([1]), poison) for name, x in inputs.items()}
        got = values_and_gradients(poisoned, "chunk")
        others = [i for i in range(shape[0]) if i != 1]
        assert_equal({name: x[others] for name, x in got.items()}, {name: x[others] for name, x in together.items()})
        assert not torch.equal(got["o"][1], together["o"][1])  # control: the poison was taken


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("time", [33, 70])
def test_no_memory_is_read_before_it_is_written(time, state):
    inputs = make_inputs(2, time, 2, 4, 6, state=state)
    expected = values_and_gradients(inputs, "chunk")
    torch.use_deterministic_algorithms(True)  # with this, torch fills every uninitialised tensor with NaN
    try:
        assert torch.empty(3).isnan().all()
        got = values_and_gradients(inputs, "chunk")
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(got, expected)


@pytest.mark.parametrize("time", [40, 70])
def test_inputs_of_any_layout_are_read_right_and_left_alone(time):
    for heads in (1, 3):
        inputs = make_inputs(2, time, heads, 4, 6)
        strided = {name: torch.stack([x, x], dim=-1)[..., 0] for name, x in inputs.items()}
        strided["beta"] = strided["beta"][:, :1].expand(-1, time, -1)
        inputs["beta"] = strided["beta"].contiguous()
        copies = {name: x.clone() for name, x in inputs.items()}
        assert_equal(values_and_gradients(strided, "chunk"), values_and_gradients(inputs, "chunk"))
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        o, final_state = gated_delta_rule(**leaves)
        gradients = [
            torch.autograd.grad((o.sum(), final_state.sum()), list(leaves.values()), retain_graph=True)
            for _ in range(2)
        ]
        assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))
        assert all(torch.equal(x, copies[name]) for name, x in inputs.items())


@pytest.mark.parametrize("backend", ["reference", "chunk"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(backend, autocast):
    inputs = make_inputs(2, 40, 2, 4, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = values_and_gradients(inputs, backend)
    expected = values_and_gradients({name: x.float() for name, x in inputs.items()}, backend)
    assert got["final_state"].dtype == torch.float32
    assert torch.equal(got["final_state"], expected["final_state"])
    assert got["o"].dtype == torch.bfloat16
    assert torch.equal(got["o"], expected["o"].bfloat16())
    for name in NAMES:
        assert got[f"gradient of {name}"].dtype == torch.bfloat16
    # bfloat16 rounds at 4e-3, once in the loss's weights, once in each gradient.
    assert_agree(got, expected, tolerance=0.02)


def test_mixed_dtypes_are_computed_in_the_widest():
    inputs = make_inputs(1, 5, 2, 4, 6, dtype=torch.float32)
    inputs["initial_state"] = inputs["initial_state"].double()
    o, final_state = gated_delta_rule(**inputs)
    assert (o.dtype, final_state.dtype) == (torch.float32, torch.float64)


def test_auto_picks_chunk():
    inputs = make_inputs(2, 33, 2, 4, 6)
    assert_equal(values_and_gradients(inputs, "auto"), values_and_gradients(inputs, "chunk"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("q", torch.ones(2, 5, 4), r"q has shape \[2, 5, 4\], expected \[B, T, H, K\]"),
        ("q", torch.ones(2, 0, 3, 4), r"q has shape \[2, 0, 3, 4\], expected \[B, T, H, K\]"),
        ("v", torch.ones(2, 5, 3), r"v has shape \[2, 5, 3\], expected \[B, T, H, V\]"),
        ("k", torch.ones(2, 5, 3, 6), r"k has shape \[2, 5, 3, 6\], expected \[B, T, H, K\] = \[2, 5, 3, 4\]"),
        ("v", torch.ones(2, 4, 3, 6), r"v has shape \[2, 4, 3, 6\], expected \[B, T, H, V\] = \[2, 5, 3, 6\]"),
        ("log_alpha", torch.ones(2, 3, 5), r"log_alpha has shape \[2, 3, 5\], expected \[B, T, H\] = \[2, 5, 3\]"),
        ("beta", torch.ones(2, 5, 3, 1), r"beta has shape \[2, 5, 3, 1\], expected \[B, T, H\]"),
        ("initial_state", torch.ones(2, 3, 6, 4), r"\[2, 3, 6, 4\], expected \[B, H, K, V\] = \[2, 3, 4, 6\]"),
        ("beta", torch.ones(2, 5, 3, dtype=torch.int64), "beta is torch.int64, expected a floating-point dtype"),
        ("v", torch.ones(2, 5, 3, 6, device="meta"), "v is on meta and q on cpu"),
        ("backend", "triton", "backend='triton' needs a CUDA device, not 'cpu'; try backend='chunk'"),
        ("backend", "cuda", "'cuda' is unknown; try one of auto, reference, chunk, triton"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    arguments = {**make_inputs(2, 5, 3, 4, 6, dtype=torch.float32), name: value}
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(**arguments)
