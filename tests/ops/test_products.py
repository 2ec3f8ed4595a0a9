"""A CPU's float32 products: as precise as float64 shows, each matrix for itself, and nothing of it seen elsewhere."""

import pytest
import torch
from torch import Tensor

from mupcheck.ops import gated_delta_rule, products
from mupcheck.ops.products import NARROWEST, fast_products, product

needs_onednn = pytest.mark.skipif(not products.onednn_is_faster(), reason="MKL computes the products here")
# float32 rounds at 6e-8, and so do sums of up to 512 terms in any order, relative to the largest
ROUNDING = 2e-6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values_and_gradients(x: Tensor, y: Tensor, weights: Tensor, *, multiply=product) -> list[Tensor]:
    x, y = (each.detach().clone().requires_grad_() for each in (x, y))
    z = multiply(x, y)
    z.backward(weights)
    assert x.grad is not None and y.grad is not None
    return [z.detach(), x.grad, y.grad]


@pytest.mark.parametrize("shape", [(3, 40, 12, 12), (2, 13, 96, 50), (4, 384, 32, 128), (3, 48, 40, 2), (2, 1, 16, 16)])
def test_a_product_and_its_gradients_are_those_of_float64(shape):
    n_replicas, rows, inner, columns = shape
    x, y, weights = (
        random(n_replicas, rows, inner),
        random(n_replicas, inner, columns),
        random(n_replicas, rows, columns),
    )
    got = values_and_gradients(x, y, weights)
    exact = values_and_gradients(x.double(), y.double(), weights.double(), multiply=torch.bmm)
    for one, other in zip(got, exact, strict=True):
        assert (one - other).abs().max() <= ROUNDING * other.abs().max()
    # control: products of numbers rounded to bfloat16, as oneDNN would take where there is AMX, are seen
    rough = torch.bmm(x.bfloat16().double(), y.bfloat16().double())
    assert (rough - exact[0]).abs().max() > 100 * ROUNDING * exact[0].abs().max()


@pytest.mark.parametrize("shape", [(5, 40, 12, 12), (7, 96, 64, 256), (14, 48, 32, 2), (3, 33, 100, 17)])
def test_a_replica_depends_on_no_other_in_a_single_bit(shape):
    n_replicas, rows, inner, columns = shape
    x, y, weights = (
        random(n_replicas, rows, inner),
        random(n_replicas, inner, columns),
        random(n_replicas, rows, columns),
    )
    together = values_and_gradients(x, y, weights)
    for i in range(n_replicas):
        alone = values_and_gradients(*(each[i : i + 1] for each in (x, y, weights)))
        assert all(torch.equal(one[0], all_[i]) for one, all_ in zip(alone, together, strict=True))
    poisoned = [each.index_fill(0, torch.tensor([1]), torch.nan) for each in (x, y, weights)]
    for one, other in zip(values_and_gradients(*poisoned), together, strict=True):
        assert torch.equal(one[[0, *range(2, n_replicas)]], other[[0, *range(2, n_replicas)]])
        assert one[1].isnan().any()


@needs_onednn
def test_the_faster_library_is_taken_from_a_certain_size_on_and_then_no_longer():
    """No result says which library it is from, where short sums round alike; the setting that asks for one does."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with fast_products(NARROWEST):
        assert setting.fp32_precision == "bf16"
    with fast_products(NARROWEST - 1):
        assert setting.fp32_precision == before
    with pytest.raises(ZeroDivisionError), fast_products(NARROWEST):
        _ = 1 / 0
    values_and_gradients(random(2, 16, 16), random(2, 16, 16), random(2, 16, 16))
    gated_delta_rule(*(random(1, 100, 2, 16) for _ in range(3)), -torch.ones(1, 100, 2), torch.ones(1, 100, 2))
    assert setting.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"  # raises where a setting was left behind


@pytest.mark.parametrize(
    ("changed", "faster"),
    [
        ({}, True),
        ({"cpu_name": "Intel(R) Xeon(R) Platinum"}, False),  # MKL has AVX-512 there
        ({"avx512_f": False}, False),
        ({"amx_bf16": True}, False),  # bfloat16 would be taken at its word
        (None, False),  # a torch that does not say
    ],
)
@needs_onednn
def test_only_a_processor_that_computes_float32_faster_is_given_it(changed, faster, monkeypatch):
    about = None if changed is None else dict(torch.cpu.get_capabilities()) | changed
    if about is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: about)
    assert products.onednn_is_faster.__wrapped__() is faster


@needs_onednn
def test_a_library_that_rounds_its_inputs_is_not_taken(monkeypatch):
    exact = torch.bmm

    def rounding(x: Tensor, y: Tensor) -> Tensor:
        return exact(x.bfloat16().to(x.dtype), y.bfloat16().to(y.dtype)) if x.dtype == torch.float32 else exact(x, y)

    monkeypatch.setattr(torch, "bmm", rounding)
    assert not products.onednn_is_faster.__wrapped__()


def test_under_autocast_a_product_is_in_bfloat16_with_gradients_in_float32():
    x, y = random(2, 16, 16).requires_grad_(), random(2, 16, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z = product(x, y)
    z.sum().backward()
    assert z.dtype == torch.bfloat16
    assert x.grad is not None and x.grad.dtype == torch.float32
