"""Processes that train one model together, a rank each: who this one is, and numbers of all of them, alike on each."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

# Ranks wait for each other where one draws values or compiles; one that died is seen by who started them.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes, the `rank`th; one alone needs no others."""

    rank: int = 0
    size: int = 1

    def each(self, x: Tensor) -> Tensor:
        """Return x [...] of every rank, [size, ...]."""
        if self.size == 1:
            return x[None]
        x = x.contiguous()
        found = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(found, x)
        return torch.stack(found)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of x [...] over ranks: added up in their order, so the same bits on each."""
        return self.each(x).sum(0)

    def rows(self, x: Tensor) -> Tensor:
        """Return this rank's sequences of a batch, [R, B / size, ...] of [R, B, ...]."""
        return x.chunk(self.size, dim=1)[self.rank]


@contextmanager
def joined(ranks: Ranks, device: str, meeting: Path) -> Iterator[Ranks]:
    """Join the other ranks of this machine, and leave them at the end.

    Args:
        ranks: who this process is.
        device: "cpu" (gloo) or "cuda:i" (NCCL).
        meeting: a file that is not there yet, the same for all of them, through which they find each other.
    """
    on_cpu = device == "cpu"
    if on_cpu and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's own name may lead nowhere
    if not on_cpu:
        torch.cuda.set_device(device)
    store = dist.FileStore(str(meeting), ranks.size)
    dist.init_process_group(
        "gloo" if on_cpu else "nccl",
        store=store,
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=TIMEOUT,
        device_id=None if on_cpu else torch.device(device),
    )
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
