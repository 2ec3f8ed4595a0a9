"""Which backend computes a call: what Triton does not take is named, and "auto" is never wrong or silent about it."""

import warnings

import pytest
import torch
from torch import Tensor

from mupcheck import ops
from mupcheck.ops import choice, gated_delta_rule
from mupcheck.ops.choice import check_triton, dtype_of, takes_triton

CUDA = torch.device("cuda:0")


def tensors(dtype=torch.float32, *, key_dim: int = 8, value_dim: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (key_dim,), "k": (key_dim,), "v": (value_dim,), "log_alpha": (), "beta": ()}
    inputs = {name: torch.rand(2, 5, 3, *size, generator=generator) for name, size in sizes.items()}
    inputs["log_alpha"] *= -1
    return {name: x.to(dtype) for name, x in inputs.items()}


@pytest.mark.parametrize(
    ("device", "dtype", "heads", "message"),
    [
        ("cpu", "float32", (32, 64), "backend='triton' needs a CUDA device, not 'cpu'; try backend='chunk'"),
        ("cuda:0", "float64", (32, 64), "computes in float32 and bfloat16, not in float64; try backend='chunk'"),
        ("cuda:0", "float32", (257, 64), "goes up to K = 256, V = 512, not K = 257, V = 64; try backend='chunk'"),
        ("cuda:0", "bfloat16", (32, 513), "goes up to K = 256, V = 512, not K = 32, V = 513; try backend='chunk'"),
    ],
)
def test_what_triton_does_not_take_is_refused_in_one_line(device, dtype, heads, message, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: object())
    check_triton("cuda:0", "bfloat16", [(32, 64), (256, 512)])
    with pytest.raises(ValueError, match=message) as refused:
        check_triton(device, dtype, [(32, 64), heads])
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package triton; try pip install triton, or backend='chunk'"):
        check_triton("cuda:0", "float32", [(32, 64)])


def test_what_is_multiplied_is_bfloat16_where_all_three_are():
    assert dtype_of(tensors(torch.bfloat16)) == torch.bfloat16
    assert dtype_of(tensors(torch.bfloat16) | {"beta": torch.rand(2, 5, 3)}) == torch.bfloat16
    assert dtype_of(tensors(torch.bfloat16) | {"v": torch.rand(2, 5, 3, 12)}) == torch.float32
    assert dtype_of(tensors(torch.float16)) == torch.float32


@pytest.fixture
def tried(monkeypatch) -> list[tuple]:
    """Let the kernels take everything, and list what the self-test is asked; it finds them wrong at K = 8."""
    seen: list[tuple] = []

    def self_test(*of: object) -> str:
        seen.append(of)
        return "Triton's kernels are wrong: the gradient of k is off by 3e-1" if of[2] == 8 else ""

    monkeypatch.setattr(choice, "_fault", lambda *of: "")
    monkeypatch.setattr(choice, "self_test", self_test)
    monkeypatch.setattr(choice, "_tested", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return seen


def test_auto_warns_once_and_takes_the_chunk_form(tried):
    inputs = tensors()
    expected = gated_delta_rule(**inputs, backend="chunk")
    with pytest.warns(UserWarning, match="off by 3e-1; backend='auto' takes 'chunk' instead"):
        got = gated_delta_rule(**inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = gated_delta_rule(**inputs)
    for answer in (got, again):
        assert all(torch.equal(x, y) for x, y in zip(answer, expected, strict=True))
    assert tried == [(torch.device("cpu"), 3, 8, 12, torch.float32)]


def test_triton_itself_is_refused_rather_than_wrong(tried):
    with pytest.raises(ValueError, match="the gradient of k is off by 3e-1; try backend='chunk'"):
        gated_delta_rule(**tensors(), backend="triton")


def test_a_shape_and_a_dtype_are_tested_once_each(tried):
    for _ in range(2):
        assert takes_triton("auto", tensors(key_dim=16))
        assert takes_triton("triton", tensors(torch.bfloat16, key_dim=16))
    assert [of[2:] for of in tried] == [(16, 12, torch.float32), (16, 12, torch.bfloat16)]


def test_no_test_in_the_middle_of_a_graph(tried, monkeypatch):
    assert takes_triton("auto", tensors(key_dim=16))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert takes_triton("auto", tensors(key_dim=16))
    with pytest.raises(ValueError, match="make it before capturing a CUDA graph"):
        takes_triton("auto", tensors(key_dim=32))


def test_kernels_that_do_not_run_are_said_to(monkeypatch):
    def fail(*of: object) -> list[float]:
        raise RuntimeError("out of resource:\n shared memory")

    monkeypatch.setattr(choice, "_errors", fail)
    said = choice.self_test(CUDA, 2, 32, 64, torch.float32)
    assert said == "Triton's kernels at K = 32, V = 64 in float32 on cuda:0 do not run: out of resource: shared memory"


@pytest.mark.parametrize("wrong", range(6))
@pytest.mark.parametrize("off", [1e-3, float("inf")])
def test_a_wrong_tensor_is_named(wrong, off, monkeypatch):
    errors = [1e-7] * 6
    monkeypatch.setattr(choice, "_errors", lambda *of: errors)
    assert choice.self_test(CUDA, 2, 32, 64, torch.float32) == ""
    errors[wrong] = off
    said = choice.self_test(CUDA, 2, 32, 64, torch.float32)
    assert said.endswith(f"are wrong: {choice.NAMES[wrong]} is off by {off:.1e}")


def test_without_a_final_state_the_rest_is_the_same():
    inputs = tensors()
    o, state = gated_delta_rule(**inputs, final_state=False)
    assert state is None
    assert torch.equal(o, gated_delta_rule(**inputs)[0])


def test_auto_is_the_chunk_form_on_a_cpu(monkeypatch):
    monkeypatch.setattr(ops, "gated_delta_rule_chunk", lambda *given: ("o", "state"))
    assert ops.pick_backend("auto")() == ("o", "state")
