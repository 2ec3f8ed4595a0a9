"""Triton's kernels on a GPU, forward and backward, as the public function calls them: against float64."""

import pytest
import torch
from rule_inputs import ODD_SHAPES, PAPER_SHAPES, SETTINGS, rounded, rule_inputs
from torch import Tensor

from mupcheck.ops import choice, gated_delta_rule

pytestmark = pytest.mark.gpu

NAMES = ("q", "k", "v", "log_alpha", "beta", "initial_state")
DTYPES = [torch.float32, torch.bfloat16]
# Of the norm of each tensor. float32 was at 2e-6 at most. bfloat16 rounds at 2^-9 what goes into products and out of
# them; where keys are alike and all is kept, errors of a whole chunk add up, to 9e-3.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
# A tensor that is rounding beside the others, as the gradient of a state that is forgotten at once, counts as so large.
SMALLEST_RMS = 1e-3


def values_and_gradients(inputs: list[Tensor], upstream: list[Tensor], backend: str) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in zip(NAMES, inputs, strict=True)}
    o, state = gated_delta_rule(**leaves, backend=backend)
    loss = (o * upstream[0].to(o)).sum() + (state * upstream[1].to(state)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"o": o.detach(), "final state": state.detach(), **dict(zip(NAMES, gradients, strict=True))}


def upstream_of(inputs: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(x.shape, generator=generator).to(x.device, inputs[0].dtype) for x in (inputs[2], inputs[5])]


def errors(got: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    found = {}
    for name, x in right.items():
        smallest = SMALLEST_RMS * x.numel() ** 0.5
        error = float((got[name].double() - x).norm() / x.norm().clamp(min=smallest))
        found[name] = error if error == error else float("inf")
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*PAPER_SHAPES, *ODD_SHAPES, (256, 512)])
def test_values_and_gradients_at_every_shape_and_length(shape, dtype):
    for time in (1, 63, 64, 100, 1000):
        for name, setting in SETTINGS.items():
            if time == 1000 and name != "plain" and shape != (32, 64):
                continue  # a second each, for what two chunks show as well
            inputs = rounded(rule_inputs(2, time, 2, *shape, **setting), dtype, "cuda")
            upstream = upstream_of(inputs)
            got = values_and_gradients(inputs, upstream, "triton")
            right = values_and_gradients([x.double() for x in inputs], upstream, "chunk")
            off = {what: error for what, error in errors(got, right).items() if not error <= TOLERANCES[dtype]}
            assert not off, (time, name)
            again = values_and_gradients(inputs, upstream, "triton")
            assert all(torch.equal(got[what], again[what]) for what in got), (time, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_element_s_bits_do_not_depend_on_the_others(dtype):
    inputs = rounded(rule_inputs(3, 100, 2, 48, 96, **SETTINGS["plain"]), dtype, "cuda")
    upstream = upstream_of(inputs)
    whole = values_and_gradients(inputs, upstream, "triton")
    alone = values_and_gradients([x[1:2] for x in inputs], [x[1:2] for x in upstream], "triton")
    for name, x in alone.items():
        assert torch.equal(x, whole[name][1:2]), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_is_triton_on_a_gpu(dtype):
    inputs = rounded(rule_inputs(1, 40, 2, 32, 64, **SETTINGS["plain"]), dtype, "cuda")
    upstream = upstream_of(inputs)
    got, expected = (values_and_gradients(inputs, upstream, backend) for backend in ("auto", "triton"))
    assert all(torch.equal(got[name], x) for name, x in expected.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PAPER_SHAPES)
def test_the_test_at_first_use_is_passed(shape, dtype):
    assert choice.self_test(torch.device("cuda", 0), 6, *shape, dtype) == ""


def test_the_comparison_sees_a_miscompiled_tensor():
    inputs = rounded(rule_inputs(2, 100, 2, 32, 64, **SETTINGS["plain"]), torch.bfloat16, "cuda")
    right = values_and_gradients([x.double() for x in inputs], upstream_of(inputs), "chunk")
    for name, x in right.items():
        wrong = dict(right)
        wrong[name] = x.clone()
        wrong[name][0] *= 1.05
        assert {what for what, error in errors(wrong, right).items() if error > 1e-2} == {name}


def test_captured_in_a_graph_it_is_the_same():
    inputs = rounded(rule_inputs(2, 100, 2, 32, 64, **SETTINGS["plain"]), torch.bfloat16, "cuda")
    leaves = [x.requires_grad_() for x in inputs]
    upstream = upstream_of(inputs)

    def step() -> tuple[Tensor, ...]:
        o, state = gated_delta_rule(*leaves[:5], initial_state=leaves[5], backend="triton")
        return o, *torch.autograd.grad((o * upstream[0]).sum() + (state * upstream[1]).sum(), leaves)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = [x.detach().clone() for x in step()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(captured, expected, strict=True))
