"""What each update should have been, beside what it was: a second optimizer that reads gradients and moves nothing.

AdamW (arXiv:1711.05101, algorithm 2, its decay times lr as torch has it) and SGD with Nesterov momentum (Sutskever et
al., ICML 2013, with decay in the gradient) from their formulas, with the lr, decay, eps, clipping and schedule that
spec and table declare. Each step starts from the weights as they are, so that nothing adds up.

A weight is looked at line by line, every row and every column of it: a head, a slice or one frozen column is a line
that is off, where the whole weight is off by less than can be told. What a line is off by counts beyond the most that
rounding can do (`ROUNDINGS`), which is a bound and no estimate: a right step of finite numbers never shows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mupcheck.measuring.declared import declared, schedule
from mupcheck.model.build import named_weights
from mupcheck.model.layers import per_replica
from mupcheck.model.lm import LanguageModel
from mupcheck.spec.run import RunSpec

# Of a line's departure beyond rounding, over the step it should have taken: what is noted, and so located.
NOTICED = 1e-3
# A float's rounding is at most u = eps/2 of it. The new weight is rounded once, a decayed one twice, the difference of
# two neighbours not at all (Sterbenz) or once more; the step itself takes a few operations, each rounded, in an order
# of its own. They are in proportion to moments that may cancel in it, so they are counted by the largest line.
ROUNDINGS, ARITHMETIC = 3, 16
SHOWN = 0.5  # a line whose rounding is at most this share of the worst departure shows one as large
FAR = 1e6  # stands for what is off by more, or by no number
# Values of a weight that are gone through at once on a CPU: what is made of them on the way stays in its cache.
CPU_BLOCK = 2**19
EVERYWHERE = ("applied", "applied_misfit", "applied_rounding")
# Where and how a weight departs, 0 where it does not; rows and columns are those of the stored matrix.
WHERE = (
    "applied_step", "applied_share", "applied_decay", "applied_decay_share",
    *(f"applied_{part}_{stat}" for part in ("rows", "columns") for stat in ("wrong", "of", "first", "last", "factor")),
)  # fmt: skip
STATS = (*EVERYWHERE, *WHERE)
Block = tuple[slice, slice]  # of replicas, and of rows


class Shadow:
    """Keeps, beside a model, what its next update should be: `before` and `after` each step; `take` for what was seen.

    Args:
        model: the model, before its first update.
        runs: one run per replica.
    """

    def __init__(self, model: LanguageModel, runs: Sequence[RunSpec]) -> None:
        self.runs = list(runs)
        self.spec = runs[0]
        named = list(named_weights(model))
        self.places = [(layer, site) for site, layer, _ in named]
        self.weights = [module.weight for _, _, module in named]
        self.declared = [declared(site, module, runs) for site, _, module in named]
        self.taken = 0
        n_updates = min(max(self.spec.record, default=self.spec.steps) + 1, self.spec.steps)
        scales = [[schedule(run, step) for run in runs] for step in range(n_updates)]
        self.scales = torch.tensor(scales, dtype=torch.float64, device=self.weights[0].device)
        kept = 2 if self.spec.optimizer == "adamw" else 1
        self.state = [[torch.zeros_like(w) for _ in range(kept)] for w in self.weights]
        self.old = [torch.empty_like(w) for w in self.weights]
        self.step = self.old if kept == 2 else [torch.zeros_like(w) for w in self.weights]  # SGD's, before its lr
        like = self.weights[0]
        self.unit = torch.finfo(like.dtype).eps / 2
        self.tiny = torch.finfo(like.dtype).tiny
        self.n_replicas, self.n_weights = len(like), len(self.weights)
        shapes = [_matrix(w).shape for w in self.weights]
        sides = [side for shape in shapes for side in shape[1:]]
        lengths = torch.tensor(sides, device=like.device)
        self.part = torch.repeat_interleave(torch.arange(len(sides), device=like.device), lengths)  # 2 a weight
        self.position = torch.cat([torch.arange(side, device=like.device, dtype=like.dtype) for side in sides])
        most = CPU_BLOCK if like.device.type == "cpu" else max(w.numel() for w in self.weights)
        self.blocks = [_blocks(shape, most) for shape in shapes]
        self.scratch = [like.new_empty(max(most, *(shape[2] for shape in shapes))) for _ in range(3)]
        # of the rows and columns of every weight, one after the other: off squared, step squared, off times step
        self.lines = like.new_empty(3, self.n_replicas, len(self.part))
        squares = (_matrix(w.detach()).square() for w in self.weights)
        self.weight_lines = torch.cat([side for x in squares for side in (x.sum(2), x.sum(1))], dim=1).sqrt_()
        self.seen = self._nothing()

    @torch.no_grad()
    def before(self, alive: Tensor) -> None:
        """Take the gradients of the coming update, all of them there and none yet clipped or decayed.

        Args:
            alive: bool [R]; a dead replica's weights should not move.
        """
        spec, t = self.spec, self.taken
        self.scale = torch.where(alive, self.scales[t], 0.0)
        clip = self._clip_factor() if spec.clip > 0 else None
        for i, weight in enumerate(self.weights):
            gradient = weight.grad
            if gradient is not None and clip is not None:
                gradient = gradient * per_replica(clip, weight).to(weight.dtype)
            for block in self.blocks[i]:
                now = _matrix(weight)[block]
                _matrix(self.old[i])[block].copy_(now)
                if gradient is not None:
                    self._gather(i, block, now, _matrix(gradient)[block])

    def _gather(self, i: int, block: Block, weight: Tensor, gradient: Tensor) -> None:
        """Take up the gradient of a block of weight i."""
        spec = self.spec
        if spec.optimizer == "adamw":
            mean, square = (_matrix(x)[block] for x in self.state[i])
            mean.mul_(spec.beta1).add_(gradient, alpha=1 - spec.beta1)
            square.mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
            return
        if spec.weight_decay > 0:
            decay = per_replica(self.declared[i].weight_decay[block[0]], weight).to(weight.dtype)
            gradient = torch.addcmul(gradient, weight, decay)
        velocity = _matrix(self.state[i][0])[block]
        velocity.mul_(spec.momentum).add_(gradient)
        torch.add(gradient, velocity, alpha=spec.momentum, out=_matrix(self.step[i])[block])

    @torch.no_grad()
    def after(self) -> None:
        """Compare the update that was made with the one that should have been, and keep the worst since `take`."""
        self.taken += 1
        whole, at = [], 0
        for i, weight in enumerate(self.weights):
            now, old = _matrix(weight), _matrix(self.old[i])
            n_rows, n_columns = now.shape[1:]
            rows, columns = self.lines[:, :, at : at + n_rows], self.lines[:, :, at + n_rows : at + n_rows + n_columns]
            pull = torch.zeros_like(now[:, 0, 0])
            for replicas, some in self.blocks[i]:
                block = replicas, some
                step, wrong, product = (x[: now[block].numel()].view(now[block].shape) for x in self.scratch)
                self._expected(i, block, out=step)
                torch.sub(now[block], old[block], out=wrong).sub_(step)
                pull[replicas] += torch.mul(wrong, old[block], out=product).sum((1, 2))
                for k, (one, other) in enumerate(((wrong, wrong), (step, step), (wrong, step))):
                    torch.mul(one, other, out=product)
                    rows[k, replicas, some] = product.sum(2)
                    if some.start == 0:
                        columns[k, replicas] = product.sum(1)
                    else:
                        columns[k, replicas] += product.sum(1)
            whole.append(torch.stack([pull, torch.linalg.vector_norm(old, dim=(1, 2)).square(), *rows.sum(2)]))
            at += n_rows + n_columns
        off, steps, inner = self.lines
        self._note(off, steps, inner, torch.stack(whole, dim=2))

    def take(self) -> Tensor:
        """Return [len(STATS), weights, R] of the worst update since the last call, the last one if none is off."""
        seen, self.seen = self.seen, self._nothing()
        return torch.stack([seen[stat] for stat in STATS]).transpose(1, 2)

    def _nothing(self) -> dict[str, Tensor]:
        like = self.weights[0]
        zero = torch.zeros(self.n_replicas, self.n_weights, dtype=like.dtype, device=like.device)
        return dict.fromkeys(STATS, zero) | {"applied": zero + 1}

    def _clip_factor(self) -> Tensor:
        norms = [torch.linalg.vector_norm(w.grad.flatten(1), dim=1) for w in self.weights if w.grad is not None]
        return torch.clamp(self.spec.clip / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6), max=1.0)

    def _expected(self, i: int, block: Block, *, out: Tensor) -> None:
        """Write what should have been added to a block of weight i."""
        spec, given, t, replicas = self.spec, self.declared[i], self.taken, block[0]
        lr = (given.lr * self.scale)[replicas]
        if spec.optimizer == "sgd":
            torch.mul(_matrix(self.step[i])[block], per_replica(-lr.to(out.dtype), out), out=out)
            return
        mean, square = (_matrix(x)[block] for x in self.state[i])
        root = math.sqrt(1 - spec.beta2**t)
        torch.sqrt(square, out=out)
        # (m / c1) / (sqrt(v / c2) + eps) = m / (sqrt(v) + eps sqrt(c2)) sqrt(c2) / c1
        out.add_(per_replica((given.eps[replicas] * root).to(out.dtype), out))
        torch.div(mean, out, out=out)
        out.mul_(per_replica(lr.to(out.dtype) * (-root / (1 - spec.beta1**t)), out))
        if spec.weight_decay > 0:
            decay = (-lr * given.weight_decay[replicas]).to(out.dtype)
            out.addcmul_(_matrix(self.old[i])[block], per_replica(decay, out))

    def _note(self, off: Tensor, steps: Tensor, inner: Tensor, whole: Tensor) -> None:
        """Keep what this update says of each weight if it is further off than those before.

        Args:
            off, steps: squares of what the lines are off by, and should have moved by, [R, L]; inner: their product.
            whole: of whole weights <off, weight> and <weight, weight>, and the sums of these three, [5, R, weights].
        """
        n, part, owner = self.n_weights, self.part, self.part // 2
        pull, weight, left, expected, along = whole

        def over(values: Tensor, index: Tensor, size: int, how: str, start: float) -> Tensor:
            filled = torch.full((self.n_replicas, size), start, dtype=values.dtype, device=values.device)
            return filled.scatter_reduce_(1, index.expand(self.n_replicas, -1), values, how)

        off_size, size = off.sqrt(), steps.sqrt()
        largest = over(size, owner, n, "amax", 0.0)
        rounded = self.unit * (ROUNDINGS * self.weight_lines + ARITHMETIC * largest[:, owner])
        misfit = ((off_size - rounded).clamp(min=0) / size.clamp(min=self.tiny)).nan_to_num(FAR, FAR).clamp(max=FAR)
        misfit = torch.where(rounded.isfinite(), misfit, 0.0)  # gradients that are no numbers say nothing of the step
        self.weight_lines += size + off_size.nan_to_num(0.0, 0.0)
        worst = over(misfit, owner, n, "amax", 0.0)
        wrong = misfit > NOTICED
        # the others, as rows of tokens that are not there, say nothing
        telling = wrong | (rounded < SHOWN * worst[:, owner] * size)
        bound = self.unit * (ROUNDINGS * weight.sqrt() + ARITHMETIC * largest) / expected.sqrt().clamp(min=self.tiny)
        lr = torch.stack([given.lr for given in self.declared], dim=1) * self.scale[:, None]
        if self.spec.optimizer == "sgd":  # momentum repeats the pull of a weight that hardly changes
            momentum = self.spec.momentum
            lr = lr * (1 - momentum ** (self.taken + 1)) / (1 - momentum)
        now = {
            "applied": _ratio(along, expected),
            "applied_misfit": worst,
            "applied_rounding": bound.nan_to_num(FAR, FAR).clamp(max=FAR),
            "applied_step": torch.full_like(worst, self.taken),
            "applied_decay": -pull / (weight * lr.to(pull.dtype)).clamp(min=self.tiny),
            "applied_decay_share": pull.square() / (weight * left).clamp(min=self.tiny),
        }
        along, size, left = (
            over(torch.where(wrong, lines, 0.0), part, 2 * n, "sum", 0.0) for lines in (inner, steps, off)
        )
        ends = {
            "wrong": over(wrong.to(misfit.dtype), part, 2 * n, "sum", 0.0),
            "of": over(telling.to(misfit.dtype), part, 2 * n, "sum", 0.0),
            "first": over(torch.where(wrong, self.position, len(part)), part, 2 * n, "amin", len(part)),
            "last": over(torch.where(wrong, self.position, 0), part, 2 * n, "amax", 0),
            "factor": _ratio(along, size),
        }
        # how much of what is off is along the step: 1 where the lines that are off took a multiple of theirs
        now["applied_share"] = (along.square() / (size * left).clamp(min=self.tiny)).view(-1, n, 2).amax(2)
        for name, values in ends.items():
            now |= {f"applied_{axis}_{name}": values[:, at::2] for at, axis in enumerate(("rows", "columns"))}
        first_step = torch.where(self.seen["applied_step"] > 0, self.seen["applied_step"], self.taken)
        further = worst >= self.seen["applied_misfit"]
        for stat, values in now.items():
            values = values.to(worst.dtype)
            if stat == "applied_step":
                self.seen[stat] = torch.where(worst > NOTICED, first_step, self.seen[stat])
                continue
            if stat in WHERE:
                values = torch.where(worst > NOTICED, values, 0.0)
            self.seen[stat] = torch.where(further, values, self.seen[stat])


def _ratio(off: Tensor, size: Tensor) -> Tensor:
    """Return <made, expected> / <expected, expected>, what was made being `off` more; 1 where nothing was expected."""
    return torch.where(size > 0, 1 + off / size, 1.0)


def _matrix(x: Tensor) -> Tensor:
    """Return x [R, N] as one row of N columns, and a matrix [R, M, N] as it is."""
    return x if x.dim() == 3 else x.unsqueeze(1)


def _blocks(shape: Sequence[int], most: int) -> list[Block]:
    """Return blocks [replicas, rows] of [R, M, N] that have at most so many values each, or one row."""
    replicas, rows, columns = shape
    alike, some = max(1, most // (rows * columns)), max(1, most // columns)
    return [
        (slice(r, min(r + alike, replicas)), slice(m, min(m + some, rows)))
        for r in range(0, replicas, alike)
        for m in range(0, rows, some)
    ]
