"""The dtype of a run's forward pass."""

from contextlib import AbstractContextManager, nullcontext

import torch

from mupcheck.spec.run import RunSpec


def autocast(spec: RunSpec, device: str | torch.device) -> AbstractContextManager:
    """Return the context of a forward pass, in the dtype of a run."""
    if spec.dtype != "bfloat16":
        return nullcontext()
    kind = torch.device(device).type
    # a captured step casts its weights anew at each replay
    return torch.autocast(kind, torch.bfloat16, cache_enabled=kind != "cuda")
