"""What this machine offers: versions, devices, and the backends of the gated delta rule that give the right answer."""

import math
import os
import platform
from importlib import metadata

import torch
from torch import Tensor

from mupcheck.model.build import build_model
from mupcheck.ops import BACKENDS, fused, gated_delta_rule
from mupcheck.results.version import version
from mupcheck.spec.reading import make_sweep

Finding = tuple[str, bool | None, str]  # name, whether it works (None: a fact), what was seen

# Against float64 over 70 steps of time. In float32 the matrix units' tf32 would miss it by a factor 30; in bfloat16
# each result is rounded by 2^-9, and what goes into products as well where they are in bfloat16.
SELF_TEST_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

# float32 sums in another order, behind unit norms of short vectors; 1e-5 was seen
FUSED_TOLERANCE = 1e-3


def examine() -> list[Finding]:
    """Return what was found, each backend tried on each device against the recurrence in float64."""
    findings: list[Finding] = [
        ("mupcheck", None, version()),
        ("python", None, platform.python_version()),
        ("cores", None, f"{os.cpu_count()}"),
        *((name, *_package(name)) for name in ("torch", "triton", "datasets")),
    ]
    devices = ["cpu"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            findings.append((f"cuda:{index}", True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
            devices.append(f"cuda:{index}")
    else:
        findings.append(("cuda", False, "torch sees no GPU; sweeps run on the CPU"))
    for device in devices:
        findings += [(f"{name} on {device}", *try_backend(name, device)) for name in BACKENDS if name != "auto"]
        if fused.enabled(torch.zeros(1, device=device)):
            findings.append((f"fused model on {device}", *try_fused(device)))
    return findings


def try_fused(device: str) -> tuple[bool, str]:
    """Compute a small model's loss and gradients from fused kernels and from torch's operations, in float32."""
    shape = {"widths": [64], "n_layers": 2, "n_heads": 2, "batch_size": 2, "seq_len": 70, "seeds": 1, "lrs": [0.1]}
    sweep = make_sweep({"kind": "lr", "parametrizations": ["sp"], "backend": "chunk", **shape}, device=device)
    model = build_model(list(sweep.runs(vocab_size=50, data_hash="")), device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (1, 2, 71), generator=generator).to(device)
    with torch.no_grad():
        for weight in model.parameters():  # a readout of 0 would hide all gradients
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=0.05)

    def loss_and_gradients() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = model.loss(tokens)
            loss.sum().backward()
        return [loss.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]

    try:
        got = loss_and_gradients()
    except (ValueError, RuntimeError, ImportError) as error:
        return False, " ".join(str(error).split())[:200]
    with fused.switched_off():
        right = loss_and_gradients()
    of_loss, worst = _errors(got, right)
    works = of_loss < FUSED_TOLERANCE and worst < FUSED_TOLERANCE
    return works, f"relative error {of_loss:.1e} in float32, of gradients {worst:.1e}; against torch's operations"


def try_backend(backend: str, device: str) -> tuple[bool, str]:
    """Run a backend of the gated delta rule on a small input and compare it with the recurrence in float64.

    Values and gradients, in float32 and bfloat16, the inputs rounded for both.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, upstream = (
        torch.randn(2, 70, 2, size, generator=generator, dtype=torch.float64) for size in (8, 8, 16, 16)
    )
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    beta = torch.rand(2, 70, 2, generator=generator, dtype=torch.float64)
    inputs = (q, k, v, -beta.flip(0), beta)
    works, seen = True, []
    for dtype, tolerance in SELF_TEST_TOLERANCES.items():
        low = [x.to(dtype) for x in (*inputs, upstream)]
        right = _values_and_gradients(low, "reference", "cpu", torch.float64)
        try:
            got = _values_and_gradients(low, backend, device, dtype)
        except (ValueError, RuntimeError, ImportError) as error:
            return False, " ".join(str(error).split())[:200]
        of_values, worst = _errors(got, right)
        works = works and of_values < tolerance and worst < tolerance
        seen.append(f"{of_values:.1e} in {str(dtype).removeprefix('torch.')}, of gradients {worst:.1e}")
    return works, f"relative error {'; '.join(seen)}; against float64"


def _errors(got: list[Tensor], right: list[Tensor]) -> tuple[float, float]:
    """Return the relative error of the first tensor, and the largest of the others; NaN is the largest of all."""
    first, *others = (float((x - y).norm() / y.norm()) for x, y in zip(got, right, strict=True))
    return first, max(others, key=lambda error: math.inf if math.isnan(error) else error)


def _values_and_gradients(given: list[Tensor], backend: str, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Return o and the gradients of q, k, v, log_alpha and beta, in float64 on the CPU."""
    *leaves, upstream = (x.to(device, dtype, copy=True) for x in given)
    for x in leaves:
        x.requires_grad_()
    with torch.enable_grad():
        o, _ = gated_delta_rule(*leaves, backend=backend)
        gradients = torch.autograd.grad((o * upstream).sum(), leaves)
    return [x.detach().cpu().double() for x in (o, *gradients)]


def _package(name: str) -> tuple[bool | None, str]:
    try:
        return None, metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, "not installed"
