"""The training loop that people write: one model, forward, backward, clip, torch's AdamW; eager or in a CUDA graph."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.bench.timing import Call, in_graph
from mupcheck.spec.run import RunSpec

# tokens [B, T] to logits [B, T, vocab], or [B * T, vocab]
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FirstSteps:
    """The losses of the first steps of a run, and the norm of its first gradient."""

    losses: list[float]
    norm: float


@dataclass(frozen=True)
class PlainLoop:
    """A model with its optimizer, and the tokens of its next step on the device."""

    logits: Logits
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    tokens: Tensor
    spec: RunSpec

    def step(self) -> tuple[Tensor, Tensor]:
        """Take one step on `tokens` and return its loss, and the norm of its gradient before it is clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        with _autocast(self.spec, self.tokens.device.type):
            logits = self.logits(self.tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, -2).float(), self.tokens[:, 1:].flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.spec.clip if self.spec.clip > 0 else math.inf)
        self.optimizer.step()
        return loss.detach(), norm

    def first_steps(self, batches: Sequence[np.ndarray]) -> FirstSteps:
        """Train on batches [B, T + 1], one a step, and return what was seen.

        A batch of one sequence fills the step's with copies of it, which have the same loss and gradient.
        """
        losses, norms = [], []
        for batch in batches:
            self.tokens.copy_(torch.from_numpy(batch))
            loss, norm = self.step()
            losses.append(float(loss))
            norms.append(float(norm))
        return FirstSteps(losses, norms[0])

    def graph(self) -> Call:
        """Return the replay of a step captured in a CUDA graph.

        Raises:
            RuntimeError: if the model cannot be captured.
        """
        return in_graph(self.step)[0]


def plain_loop(module: nn.Module, logits: Logits, spec: RunSpec, batch: np.ndarray, device: str) -> PlainLoop:
    """Return a loop around a module as users write it, with torch's AdamW, fused on a GPU; the batch is [B, T + 1]."""
    parameters = list(module.parameters())
    on_gpu = device != "cpu"
    optimizer = torch.optim.AdamW(
        parameters,
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=on_gpu,
        capturable=on_gpu,
    )
    return PlainLoop(logits, parameters, optimizer, torch.from_numpy(batch).to(device), spec)


@contextmanager
def _autocast(spec: RunSpec, device: str) -> Iterator[None]:
    # the cache of cast weights would outlive the capture of a graph
    half = spec.dtype == "bfloat16"
    with torch.autocast(device, torch.bfloat16, cache_enabled=False) if half else nullcontext():
        yield
