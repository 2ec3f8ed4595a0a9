"""Coordinate sizes of a model over several devices: each measures its part, and the sums over all of them are exact.

Of activations a device has those of its sequences, of weights its rows or columns. Squares and counts of equal parts
add up; a median and the spectrum of a change are taken of all values, one weight at a time.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mupcheck.measuring.probes import CoordRow, Optimizer, Probe, _stacked
from mupcheck.measuring.shadow import STATS, WHERE, Shadow
from mupcheck.measuring.spectral import powers
from mupcheck.measuring.stacks import matrix
from mupcheck.measuring.stored import stored_eps
from mupcheck.model.layers import Embedding, Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.model.ranks import Ranks
from mupcheck.model.sharded import Part
from mupcheck.spec.run import RunSpec

# how the numbers of equal parts make that of all: as squares do, as means, or the least; others are alike on each rank
AS_SQUARES = ("rms", "expected_rms", "adam_eps_ratio")
AS_MEANS = ("mean_abs", "alpha_saturated", "beta_saturated")


class ShardedProbe(Probe):
    """Watches one run's model over all ranks, as `Probe` does that of one device; rows are the same on each rank.

    Args:
        model: the model, before its first update.
        parts: what this rank has of each weight.
        ranks: who this process is.
        full: False records the rms of activations alone.
        run: what the updates are compared with.
    """

    def __init__(
        self, model: LanguageModel, parts: Sequence[Part], ranks: Ranks, *, run: RunSpec, full: bool = True
    ) -> None:
        super().__init__(model, full=False)
        self.full, self.together = full, False
        self.parts, self.ranks = list(parts), ranks
        self.shadow = ShardedShadow(model, parts, ranks, run) if full else None
        self.initial = [part.local.clone() for part in parts] if full else []
        self.mean_squares: dict[int, Tensor] = {}

    @torch.no_grad()
    def finish(self, optimizer: Optimizer, lr_scale: Tensor) -> None:
        """Unhook, and measure the parts of weights, gradients and updates that are here."""
        if not self.full:
            super().finish(optimizer, lr_scale)
            return
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        moved = bool(optimizer.steps_taken)
        ratios = optimizer.eps_ratios() if moved else None
        spectra: list[tuple[int, str, Tensor]] = []
        for index, (part, initial) in enumerate(zip(self.parts, self.initial, strict=True)):
            place = part.layer, part.site
            put, put_size = partial(self._put, *place), partial(self._put_size, *place)
            put_size("weight", "rms", part.local)
            if not moved:
                put("diagnostic", "n_values", part.local.new_full((1,), part.shape[1:].numel()))
            if part.local.grad is not None:
                put_size("weight_grad", "rms", part.local.grad)
            if not moved:
                continue
            here = part.local - initial
            put_size("weight_update", "rms", here)
            put("diagnostic", "stored_eps", stored_eps(part.local))
            change = part.whole(here, self.ranks)
            if change.dim() == 3 and not isinstance(part.module, Embedding):
                spectra.append((*place, powers(change)))
            x = self.inputs.get(place)
            if x is not None and x.is_floating_point():
                x = x.to(change.dtype)  # under autocast it may be bfloat16, which would round the change away
            put_size("effective_update", "rms", part.module.act(change, x))
            if ratios is not None:
                put("diagnostic", "adam_eps_ratio", ratios[index])
        self._put_spectral(spectra)
        for layer, squares in self.mean_squares.items():
            median = self.ranks.each(squares).flatten().median()
            self._put(layer, "o_raw", "diagnostic", "o_norm_eps_ratio", median[None] / max(self.norm_eps, 1e-45))
        for applied in optimizer.realised(lr_scale):
            put = partial(self._put, applied.layer, applied.site, "diagnostic")
            put("realised_lr", applied.lr)
            put("realised_wd", applied.weight_decay)
            put("realised_eps", applied.eps)
        self.inputs.clear()
        self.before.clear()
        self.mean_squares.clear()

    def rows(self, step: int) -> list[CoordRow]:
        """Return what all ranks measured since the last call."""
        if not self.sizes:
            return []
        keys = list(self.sizes)
        parts = self.ranks.each(_stacked(list(self.sizes.values()))[:, 0]).cpu()
        self.sizes.clear()
        measured = {key: [self._joined(key, parts[:, i])] for i, key in enumerate(keys)}
        for layer, site, kind, _ in keys:
            if kind == "weight_update":
                change, size = (measured[layer, site, of, "rms"][0] for of in (kind, "weight"))
                relative = change / size if size else math.inf if change else math.nan
                measured[layer, site, "diagnostic", "relative_update"] = [relative]
        if self.shadow is not None and self.shadow.taken:
            more = [(layer, site, "diagnostic", stat) for stat in STATS for layer, site in self.shadow.places]
            measured |= zip(more, self.shadow.take().flatten(0, 1).double().tolist(), strict=True)
        return [CoordRow(step, *key, row) for key, row in measured.items() if key[3] not in WHERE or any(row)]

    def _joined(self, key: tuple[int, str, str, str], values: Tensor) -> float:
        """Return the size of all from those of the ranks' parts, which are of equal sizes; values: [ranks]."""
        _, _, kind, stat = key
        if stat in AS_SQUARES:
            # a rank's loss is the mean over its own sequences, of which the loss of all is a mean
            parts = self.ranks.size if kind == "activation_grad" else 1
            return float(values.square().mean().sqrt() / parts)
        if stat in AS_MEANS:
            return float(values.mean())
        return float(values.min() if stat == "stored_eps" else values[0])

    def _on_site(self, layer: int, site: str, module: nn.Module, args: tuple, out: Tensor) -> None:
        super()._on_site(layer, site, module, args, out)
        if site == "o_raw" and self.full:
            self.mean_squares[layer] = out.detach().square().mean(-1).flatten()


class ShardedShadow(Shadow):
    """Compares what each rank's part of an update did with what it should have done, line by line of whole weights."""

    stacked = 0  # every weight alone

    def __init__(self, model: LanguageModel, parts: Sequence[Part], ranks: Ranks, run: RunSpec) -> None:
        self.part_of = {part.module: part for part in parts}
        self.parts = list(parts)
        self.ranks = ranks
        super().__init__(model, [run])

    def _values(self, module: Weight) -> Tensor:
        return self.part_of[module].local

    def _first_lines(self) -> Tensor:
        self.lines.zero_()
        for index, weight in enumerate(self.weights):
            squares = matrix(weight).square()
            self._put(index, torch.cat([squares.sum(2), squares.sum(1)], dim=1).expand(3, -1, -1))
        return self._whole(self.lines)[0].sqrt_()

    def _put(self, index: int, lines: Tensor) -> None:
        part = self.parts[index]
        if not self._counts(part):
            return
        n_rows, n_columns = matrix(part.local).shape[1:]
        all_rows = part.shape[1] if len(part.shape) == 3 else 1
        along_rows = len(part.shape) == 3 and part.axis == 1
        row = self.starts[index] + (part.start if along_rows else 0)
        column = self.starts[index] + all_rows + (0 if along_rows else part.start)
        self.lines[:, :, row : row + n_rows] = lines[:, :, :n_rows]
        self.lines[:, :, column : column + n_columns] = lines[:, :, n_rows:]

    def _whole(self, sums: Tensor) -> Tensor:
        if sums is not self.lines:  # of weights: each sum is of a part, or of all on every rank
            counts = torch.tensor([self._counts(part) for part in self.parts], device=sums.device)
            sums = torch.where(counts, sums, 0.0)
        return self.ranks.total(sums)

    def _counts(self, part: Part) -> bool:
        return part.axis is not None or self.ranks.rank == 0

    def _clip_factor(self) -> Tensor:
        own = [part.local.grad for part in self.parts if self._counts(part) and part.local.grad is not None]
        squares = [torch.linalg.vector_norm(gradient).double().square() for gradient in own]
        norm = self.ranks.total(torch.stack(squares).sum() if squares else self.scale.sum() * 0)
        return torch.clamp(self.spec.clip / (norm.sqrt() + 1e-6), max=1.0)[None]
