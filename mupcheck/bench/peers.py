"""What others use, where it is installed: flash-linear-attention (FLA) and FlashQLA for the delta rule, microsoft/mup.

FLA's kernels take [B, T, H, K] like ours, the decay as `g` = log_alpha, and scale q by 1 / sqrt(K) unless told not to.
On Hopper its backward pass needs tilelang beside it (its issue 640), which it then takes of itself. Its kernels tune
themselves at the first call of a shape, for a minute or more.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any

from torch import Tensor

# packages that decide what a peer computes with, for provenance
PACKAGES = ("flash-linear-attention", "fla-core", "tilelang", "flash-qla", "mup", "transformers")


@dataclass(frozen=True)
class Peer:
    """Another library: its name, its op where it has one, and the (K, V) that it serves (None: all)."""

    name: str
    op: Callable[..., Tensor] | None
    shapes: tuple[tuple[int, int], ...] | None = None

    def serves(self, case: Any) -> bool:
        """Say whether the peer has kernels for a case's (K, V)."""
        return self.shapes is None or (case.key_dim, case.value_dim) in self.shapes


def op_peers(device: str) -> list[Peer]:
    """Return the peers of the op that can be imported here: FLA's kernels on a GPU, its plain torch form on a CPU."""
    version = fla_version()
    if version is None:
        return []
    if device == "cpu":
        return [Peer(f"FLA {version}, naive", _fla_naive)]
    found = [Peer(f"FLA {version}", partial(_fla, flash=False))]
    if _importable("flash_qla"):
        found.append(Peer(f"FlashQLA {_version('flash-qla')}", partial(_fla, flash=True), shapes=((128, 128),)))
    return found


def fla_version() -> str | None:
    """Return FLA's version where it can be imported, else None."""
    return _version("flash-linear-attention") if _importable("fla") else None


def mup_version() -> str | None:
    """Return the version of microsoft/mup where its coordinate check can be imported, else None."""
    return _version("mup") if _importable("mup.coord_check") else None


def versions() -> dict[str, str | None]:
    """Return the versions of the peers' packages, None where one is not installed."""
    return {package: _version(package) for package in PACKAGES}


def _fla(q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, *, flash: bool) -> Tensor:
    # FLA hands K = V = 128 to FlashQLA where that is installed; the variable is read at each call
    os.environ["FLA_FLASH_QLA"] = str(int(flash))
    kernels = import_module("fla.ops.gated_delta_rule")
    output: Tensor = kernels.chunk_gated_delta_rule(q, k, v, log_alpha, beta, scale=1.0)[0]
    return output


def _fla_naive(q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor) -> Tensor:
    plain = import_module("fla.ops.gated_delta_rule.naive")
    output: Tensor = plain.naive_chunk_gated_delta_rule(q, k, v, log_alpha, beta, scale=1.0)[0]
    return output


def _importable(package: str) -> bool:
    try:
        import_module(package)
    except Exception:  # an installation that is broken in whatever way is no peer
        return False
    return True


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
