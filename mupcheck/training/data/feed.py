"""The batches of a group on its device, read by a step that is counted there.

They are those of `train_batch`: the same windows by the same draws. A corpus up to RESIDENT_BYTES lies on the device
whole; of a larger one the batches of the steps to come do, which the host reads while the device trains.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mupcheck.spec.run import RunSpec
from mupcheck.training.data.batches import held_out_batches, train_batch, window_starts
from mupcheck.training.data.corpus import Corpus, Shards, too_large

RESIDENT_BYTES = 2**31
# Steps whose batches wait on the device: those that it trains on and those that the host reads meanwhile.
STEPS_AHEAD = 128


class Windows:
    """Tokens that lie on a device, unsigned 8, 16 or 32 bits each, read in windows.

    Raises:
        ValueError: if a token is not below the corpus' vocab_size.
    """

    def __init__(self, corpus: Corpus, tokens: np.ndarray | Shards, device: str | torch.device) -> None:
        tokens = tokens[: len(tokens)] if isinstance(tokens, Shards) else tokens
        if len(tokens) and (largest := int(tokens.max())) >= corpus.vocab_size:
            raise ValueError(too_large(corpus.name, largest, corpus.vocab_size))
        # torch computes little with unsigned integers: signed ones of the same bits, and the sign cut off
        bits = 8 * tokens.itemsize
        signed = np.ascontiguousarray(tokens).view(f"i{tokens.itemsize}")
        self.mask = (1 << bits) - 1 if bits > 8 else None
        self.tokens = _as_tensor(signed if bits > 8 else signed.view(np.uint8)).to(device)

    def at(self, starts: Tensor, length: int) -> Tensor:
        """Return the windows that start there: int64 [..., length] of starts [...]."""
        places = starts[..., None] + torch.arange(length, device=starts.device)
        windows = self.tokens[places].long()
        return windows if self.mask is None else windows & self.mask


class ResidentFeed:
    """Batches gathered from tokens that lie on the device whole."""

    def __init__(self, runs: Sequence[RunSpec], corpus: Corpus, *, n_steps: int, device: str | torch.device) -> None:
        spec = runs[0]
        self.length = spec.seq_len + 1
        self.seeds, self.of_seed = _seeds(runs, device)
        self.windows = Windows(corpus, corpus.train, device)
        shape = {"batch_size": spec.batch_size, "seq_len": spec.seq_len}
        starts = [
            [window_starts(corpus, seed=seed, step=step, **shape) for seed in self.seeds]
            for step in range(_different(spec, n_steps))
        ]
        self.starts = torch.from_numpy(np.array(starts).astype(np.int64)).to(device)  # [n, seeds, B]

    def start_at(self, step: int) -> None:
        """Do nothing: all is there."""

    def fill(self, step: int) -> None:
        """Do nothing: all is there."""

    def batch(self, step: Tensor) -> Tensor:
        """Return the tokens of a step, int64 [R, B, T + 1]; step: int64 [1]."""
        starts = self.starts.index_select(0, step.clamp(max=len(self.starts) - 1))[0]
        return self.windows.at(starts, self.length).index_select(0, self.of_seed)

    def keep(self, living: Tensor) -> None:
        """Go on with these replicas alone; living: int64 [n]."""
        self.of_seed = self.of_seed[living]


class StreamedFeed:
    """Batches that the host puts into a ring on the device, some steps ahead."""

    def __init__(self, runs: Sequence[RunSpec], corpus: Corpus, *, n_steps: int, device: str | torch.device) -> None:
        spec = runs[0]
        self.corpus, self.n_steps = corpus, _different(spec, n_steps)
        self.shape = {"batch_size": spec.batch_size, "seq_len": spec.seq_len}
        self.seeds, self.of_seed = _seeds(runs, device)
        slots = min(STEPS_AHEAD, self.n_steps)
        size = (slots, len(self.seeds), spec.batch_size, spec.seq_len + 1)
        self.ring = torch.empty(size, dtype=torch.int32, device=device)
        self.filled = 0

    def start_at(self, step: int) -> None:
        """Begin with the batches of `step`; it is called before any was put in."""
        self.filled = min(step, self.n_steps - 1)

    def fill(self, step: int) -> None:
        """Put in the batches of the steps from `step` on, as many as there is room for; those before it are done."""
        stop = min(step + len(self.ring), self.n_steps)
        while self.filled < stop:
            # no copy goes around the ring's end
            last = min(stop, (self.filled // len(self.ring) + 1) * len(self.ring))
            batches = [
                [train_batch(self.corpus, seed=seed, step=at, **self.shape) for seed in self.seeds]
                for at in range(self.filled, last)
            ]
            at = self.filled % len(self.ring)
            host = _as_tensor(np.array(batches, dtype=np.int32))
            host = host.pin_memory() if self.ring.is_cuda else host
            self.ring[at : at + len(host)].copy_(host, non_blocking=True)
            self.filled = last

    def batch(self, step: Tensor) -> Tensor:
        """Return the tokens of a step, int64 [R, B, T + 1]; step: int64 [1]."""
        slot = step.clamp(max=self.n_steps - 1) % len(self.ring)
        return self.ring.index_select(0, slot)[0].index_select(0, self.of_seed).long()

    def keep(self, living: Tensor) -> None:
        """Go on with these replicas alone; living: int64 [n]."""
        self.of_seed = self.of_seed[living]


def open_feed(
    runs: Sequence[RunSpec], corpus: Corpus, *, n_steps: int, device: str | torch.device
) -> ResidentFeed | StreamedFeed:
    """Return the batches of a group: from resident tokens where there are not too many of them, and many steps.

    Raises:
        ValueError: if there are too few tokens, or a token is not below vocab_size.
    """
    pieces = corpus.train.pieces if isinstance(corpus.train, Shards) else [corpus.train]
    small = sum(piece.nbytes for piece in pieces) <= RESIDENT_BYTES
    resident = small and _different(runs[0], n_steps) > STEPS_AHEAD
    return (ResidentFeed if resident else StreamedFeed)(runs, corpus, n_steps=n_steps, device=device)


class HeldOut:
    """The held-out batches of a group on its device: those of `held_out_batch`."""

    def __init__(self, spec: RunSpec, corpus: Corpus, device: str | torch.device) -> None:
        self.batch_size, self.seq_len = spec.batch_size // spec.accumulation, spec.seq_len
        shape = {"batch_size": self.batch_size, "seq_len": self.seq_len}
        self.count = held_out_batches(corpus, tokens=spec.eval_tokens, **shape)
        n_tokens = self.count * self.batch_size * self.seq_len + 1
        if len(corpus.held_out) < n_tokens:
            raise ValueError(
                f"{corpus.name} has {len(corpus.held_out):,} held-out tokens, fewer than one batch of "
                f"{self.batch_size} x {self.seq_len} (+1 to predict); try a smaller batch_size or seq_len, or more data"
            )
        self.windows = Windows(corpus, corpus.held_out[:n_tokens], device)
        self.rows = self.seq_len * torch.arange(self.batch_size, device=device)

    def batch(self, index: Tensor) -> Tensor:
        """Return one batch, int64 [B, T + 1]; index: int64 [1]."""
        return self.windows.at(self.rows + index * (self.batch_size * self.seq_len), self.seq_len + 1)


def _different(spec: RunSpec, n_steps: int) -> int:
    """Return how many steps have batches of their own: a coordinate check trains on one, its probe batch too."""
    return 1 if spec.kind == "coord" else n_steps


def _seeds(runs: Sequence[RunSpec], device: str | torch.device) -> tuple[list[int], Tensor]:
    """Return the seeds there are and, of each replica, which it has."""
    seeds = sorted({run.seed for run in runs})
    return seeds, torch.tensor([seeds.index(run.seed) for run in runs], device=device)


def _as_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values if values.flags.writeable else values.copy())
