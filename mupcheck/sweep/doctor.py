"""What this machine offers: versions, devices, and the backends of the gated delta rule that give the right answer."""

import math
import os
import platform
from importlib import metadata

import torch
from torch import Tensor

from mupcheck.ops import BACKENDS, gated_delta_rule
from mupcheck.results.version import version

Finding = tuple[str, bool | None, str]  # name, whether it works (None: a fact), what was seen

# Against float64 over 70 steps of time. In float32 the matrix units' tf32 would miss it by a factor 30; in bfloat16
# each result is rounded by 2^-9, and what goes into products as well where they are in bfloat16.
SELF_TEST_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


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
    return findings


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
        of_values, *of_gradients = (float((x - y).norm() / y.norm()) for x, y in zip(got, right, strict=True))
        worst = max(of_gradients, key=lambda error: math.inf if math.isnan(error) else error)
        works = works and of_values < tolerance and worst < tolerance
        seen.append(f"{of_values:.1e} in {str(dtype).removeprefix('torch.')}, of gradients {worst:.1e}")
    return works, f"relative error {'; '.join(seen)}; against float64"


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
