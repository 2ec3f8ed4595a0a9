"""Where fused kernels stand in for torch's own operations: on a CUDA device, unless switched off."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

DEVICES = {"cuda"}  # a test adds "cpu" where triton's interpreter runs
DTYPES = (torch.float32, torch.bfloat16)
_on = True


@contextmanager
def switched_off() -> Iterator[None]:
    """Let torch's operations compute everything, as on a CPU: the reference that fused kernels are compared with."""
    global _on
    before, _on = _on, False
    try:
        yield
    finally:
        _on = before


def enabled(x: Tensor) -> bool:
    """Say whether fused kernels compute what starts from x."""
    return _on and x.device.type in DEVICES and x.dtype in DTYPES and _has_triton() and _fit_for_it(x.device)


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products of x: that of autocast where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Return a context in which kernels are launched on x's device: triton launches on the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@cache
def _fit_for_it(device: torch.device) -> bool:
    """Say whether a device has what the kernels were written for and tested on: bfloat16, so NVIDIA's of 2020 on."""
    return device.type != "cuda" or (not torch.version.hip and torch.cuda.get_device_capability(device) >= (8, 0))


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
