"""The test of the kernels at first use, itself tested under the interpreter, with gradients right or not."""

import pytest
import torch
from torch import Tensor

from mupcheck.ops.choice import self_test
from mupcheck.ops.kernels import backward

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")

CPU = torch.device("cpu")


TRUE = backward.gradients


@pytest.mark.parametrize("wrong", [None, *range(5)])
def test_a_wrong_gradient_is_seen(wrong, monkeypatch):
    def gradients(*saved: Tensor | None, **options: object) -> tuple[Tensor | None, ...]:
        answer = list(TRUE(*saved, **options))
        if wrong is not None:
            answer[wrong][0, -1] *= 1.01  # the last of 100 steps
        return tuple(answer)

    monkeypatch.setattr(backward, "gradients", gradients)
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
        return TRUE(*saved, **options)

    monkeypatch.setattr(backward, "gradients", gradients)
    with torch.inference_mode():
        assert self_test(CPU, 1, 16, 16, torch.float32) == ""
    assert called
