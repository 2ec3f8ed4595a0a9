"""The test of the kernels at first use, itself tested under the interpreter, on a way back that is right or is not."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mupcheck.ops.choice import self_test
from mupcheck.ops.chunk import gated_delta_rule_chunk

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")

CPU = torch.device("cpu")


def back_through_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, *saved: Tensor | None, **options: object
) -> tuple[Tensor | None, ...]:
    grad_o = saved[3]
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v, log_alpha, beta)]
    with torch.enable_grad():
        o, _ = gated_delta_rule_chunk(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], None)
    return *(x.float() for x in torch.autograd.grad(o, leaves, grad_o.double())), None


@pytest.mark.parametrize("wrong", [None, *range(5)])
def test_a_wrong_gradient_is_seen(wrong, monkeypatch):
    def gradients(*saved: Tensor | None, **options: object) -> tuple[Tensor | None, ...]:
        answer = list(back_through_chunks(*saved, **options))
        if wrong is not None:
            answer[wrong][0, -1] *= 1.01  # the last of 100 steps
        return tuple(answer)

    monkeypatch.setitem(sys.modules, "mupcheck.ops.kernels.backward", SimpleNamespace(gradients=gradients))
    said = self_test(CPU, 1, 16, 24, torch.float32)
    if wrong is None:
        assert said == ""
    else:
        name = ("q", "k", "v", "log_alpha", "beta")[wrong]
        assert f"are wrong: the gradient of {name} is off by" in said


def test_where_gradients_are_switched_off_they_are_tested_too(monkeypatch):
    called = []

    def gradients(*saved: Tensor | None, **options: object) -> tuple[Tensor | None, ...]:
        called.append(options)
        return back_through_chunks(*saved, **options)

    monkeypatch.setitem(sys.modules, "mupcheck.ops.kernels.backward", SimpleNamespace(gradients=gradients))
    with torch.inference_mode():
        assert self_test(CPU, 1, 16, 16, torch.float32) == ""
    assert len(called) == 1
