"""What this machine offers: versions, devices, and the backends of the gated delta rule that give the right answer."""

import os
import platform
from importlib import metadata

import torch

from mupcheck.ops import BACKENDS, gated_delta_rule
from mupcheck.results.version import version

Finding = tuple[str, bool | None, str]  # name, whether it works (None: a fact), what was seen

# float32 against float64 over 33 steps of time; the matrix units' tf32 would miss it by a factor 30
SELF_TEST_TOLERANCE = 1e-5


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
    """Run a backend of the gated delta rule on a small input and compare it with the recurrence in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 33, 2, size, generator=generator, dtype=torch.float64) for size in (8, 8, 16))
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    beta = torch.rand(2, 33, 2, generator=generator, dtype=torch.float64)
    inputs = (q, k, v, -beta.flip(0), beta)
    right, _ = gated_delta_rule(*inputs, backend="reference")
    try:
        out, _ = gated_delta_rule(*(x.float().to(device) for x in inputs), backend=backend)
    except (ValueError, RuntimeError, ImportError) as error:
        return False, " ".join(str(error).split())[:200]
    distance = float((out.cpu().double() - right).norm() / right.norm())
    return distance < SELF_TEST_TOLERANCE, f"relative error {distance:.1e} against float64"


def _package(name: str) -> tuple[bool | None, str]:
    try:
        return None, metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, "not installed"
