"""A recorded run as the tables of a coordinate check; what such a run has not is 0 or ""."""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

import torch

from mupcheck.measuring.probes import CoordRow
from mupcheck.recording.sizes import Sizes
from mupcheck.results.version import version
from mupcheck.theory.name import NAME_RULE, is_name
from mupcheck.theory.required import OWN


@dataclass
class Step:
    """One step of a loop; `loss`, a number or a tensor of one, is the user's to set, and may stay None."""

    number: int
    loss: Any = None
    grad_norm: float | None = None


def check_name(name: str) -> str:
    """Return a name that can be a folder's.

    Raises:
        ValueError: if it cannot.
    """
    if not is_name(name):
        raise ValueError(f"name {name!r} is none; give {NAME_RULE}")
    return name


def run_id_of(name: str, width: int, seed: int, key: str) -> str:
    """Return 16 hex digits: a hash of what a run is."""
    text = json.dumps({"recorded": name, "width": width, "seed": seed, "key": key}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_of(
    sizes: Sizes, steps: Sequence[Step], *, run_id: str, name: str, width: int, seed: int, seconds: float
) -> dict[str, Any]:
    """Return the row of `runs`."""
    losses = [_number(step.loss) for step in steps]
    lost = next((i for i, loss in enumerate(losses) if loss is not None and not math.isfinite(loss)), None)
    applied = [row.values[0] for row in sizes.rows if row.stat == "realised_lr"]
    decays = [row.values[0] for row in sizes.rows if row.stat == "realised_wd"]
    lr = max(applied, default=0.0)
    first = next(iter(sizes.parameters.values()))
    return {
        "run_id": run_id,
        "sweep": name,
        "kind": "coord",
        "parametrization": OWN,
        "rules_hash": "",
        "optimizer": "+".join(dict.fromkeys(type(each).__name__.lower() for each in sizes.optimizers)),
        "mode": OWN,
        "width": width,
        "base_width": 0,
        "seed": seed,
        "lr": lr,
        "log2_lr": math.log2(lr) if lr > 0 else -math.inf,
        "weight_decay": max(decays, default=0.0),
        "decay_mode": "coupled",
        "schedule": "",
        "warmup_steps": 0,
        "clipped_fraction": None,
        "n_layers": len({row.layer for row in sizes.rows} - {-1}),
        **dict.fromkeys(("n_heads", "head_k_dim", "head_v_dim", "vocab_size", "batch_size", "seq_len", "tokens"), 0),
        "tied": sizes.tied,
        "steps": len(steps),
        "data": "",
        "data_hash": "",
        "dtype": str(first.dtype).removeprefix("torch."),
        "backend": "torch",
        "n_params": sum(parameter.numel() for parameter in sizes.parameters.values()),
        "status": "ok" if lost is None else "diverged",
        "diverged_step": lost,
        "reason": None if lost is None else f"the loss is {losses[lost]} at step {lost}",
        "train_loss": losses[-1],
        "wall_seconds": seconds,
        "device": str(first.device),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "mupcheck": version(),
        "started_at": datetime.now(UTC) - timedelta(seconds=seconds),
    }


def steps_of(steps: Sequence[Step]) -> dict[str, list[Any]]:
    """Return the columns of `steps`."""
    return {
        "step": [step.number for step in steps],
        "tokens": [0] * len(steps),
        "loss": [_number(step.loss) for step in steps],
        "grad_norm": [step.grad_norm for step in steps],
        "lr_scale": [1.0] * len(steps),
    }


def coords_of(rows: Iterable[CoordRow]) -> dict[str, list[Any]]:
    """Return the columns of `coords`."""
    rows = list(rows)
    return {name: [getattr(row, name) for row in rows] for name in ("step", "layer", "site", "kind", "stat")} | {
        "value": [row.values[0] for row in rows]
    }


def _number(loss: Any) -> float | None:
    if loss is None:
        return None
    return float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)
