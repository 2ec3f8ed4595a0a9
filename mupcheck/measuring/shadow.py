"""What each update should have been, beside what it was: a second optimizer that reads gradients and moves nothing.

AdamW (arXiv:1711.05101, algorithm 2, its decay times lr as torch has it) and SGD with Nesterov momentum (Sutskever et
al., ICML 2013, with decay in the gradient) from their formulas, with the lr, decay, eps, clipping and schedule that
spec and table declare. Each step starts from the weights as they are, so that nothing adds up.

A weight is looked at line by line, every row and every column of it: a head, a slice or one frozen column is a line
that is off, where the whole weight is off by less than can be told. What a line is off by counts beyond the most that
rounding can do (`ROUNDINGS`), which is a bound and no estimate: a right step of finite numbers never shows.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from mupcheck.measuring.declared import declared, schedule
from mupcheck.measuring.stacks import Block, Stack, joined, matrix
from mupcheck.model.build import named_weights
from mupcheck.model.layers import Weight, per_replica
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
# Values of weights of one shape that go through together on a GPU: there calls cost, and small weights nothing.
STACKED = 2**25
EVERYWHERE = ("applied", "applied_misfit", "applied_rounding")
# Where and how a weight departs, 0 where it does not; rows and columns are those of the stored matrix.
WHERE = (
    "applied_step", "applied_share", "applied_decay", "applied_decay_share",
    *(f"applied_{part}_{stat}" for part in ("rows", "columns") for stat in ("wrong", "of", "first", "last", "factor")),
)  # fmt: skip
STATS = (*EVERYWHERE, *WHERE)


class Shadow:
    """Keeps, beside a model, what its next update should be: `before` and `after` each step; `take` for what was seen.

    Args:
        model: the model, before its first update.
        runs: one run per replica.
    """

    stacked = STACKED

    def __init__(self, model: LanguageModel, runs: Sequence[RunSpec]) -> None:
        self.runs = list(runs)
        self.spec = runs[0]
        named = list(named_weights(model))
        on_cpu = model.embedding.weight.device.type == "cpu"
        matrices = [matrix(self._values(module)) for _, _, module in named]
        stacks = _stacks(matrices, most=0 if on_cpu else self.stacked)
        named = [named[i] for stack in stacks for i in stack]
        self.places = [(layer, site) for site, layer, _ in named]
        self.weights = [self._values(module) for _, _, module in named]
        self.declared = [declared(site, module, runs) for site, _, module in named]
        self.taken = 0
        n_updates = min(max(self.spec.record, default=self.spec.steps) + 1, self.spec.steps)
        scales = [[schedule(run, step) for run in runs] for step in range(n_updates)]
        like = self.weights[0]
        self.scales = torch.tensor(scales, dtype=torch.float64, device=like.device)
        self.unit = torch.finfo(like.dtype).eps / 2
        self.tiny = torch.finfo(like.dtype).tiny
        self.n_replicas, self.n_weights = len(like), len(self.weights)
        sides = [side for _, _, module in named for side in matrix(module.weight).shape[1:]]
        lengths = torch.tensor(sides, device=like.device)
        self.part = torch.repeat_interleave(torch.arange(len(sides), device=like.device), lengths)  # 2 a weight
        self.position = torch.cat([torch.arange(side, device=like.device, dtype=like.dtype) for side in sides])
        ends = list(accumulate(map(len, stacks)))
        self.stacks = [
            Stack(self.weights[end - len(stack) : end], self.declared[end - len(stack) : end], self._cut)
            for stack, end in zip(stacks, ends, strict=True)
        ]
        of_stacks = [sum(sides[2 * (end - len(stack)) : 2 * end]) for stack, end in zip(stacks, ends, strict=True)]
        self.starts = [end - own for end, own in zip(accumulate(of_stacks), of_stacks, strict=True)]
        self.lr, self.eps, self.weight_decay = (
            torch.cat([getattr(each, name) for each in self.declared]) for name in ("lr", "eps", "weight_decay")
        )
        self.scratch = [like.new_empty(max(stack.scratch for stack in self.stacks)) for _ in range(3)]
        # of the rows and columns of every weight, one after the other: off squared, step squared, off times step
        self.lines = like.new_empty(3, self.n_replicas, len(self.part))
        self.weight_lines = self._first_lines()
        self.seen = self._nothing()

    def _cut(self, shape: Sequence[int]) -> list[Block]:
        """Return what of weights [R, M, N] is gone through at once."""
        return _blocks(shape, CPU_BLOCK if self.weights[0].device.type == "cpu" else math.prod(shape))

    def _values(self, module: Weight) -> Tensor:
        """Return a weight's values, with their gradient; of a model over several devices those that are here."""
        return module.weight

    def _first_lines(self) -> Tensor:
        """Return the sizes of all lines of the weights, [R, L]."""
        squares = (matrix(w.detach()).square() for w in self.weights)
        return torch.cat([side for x in squares for side in (x.sum(2), x.sum(1))], dim=1).sqrt_()

    def _put(self, index: int, lines: Tensor) -> None:
        """Put what was summed over the lines of a stack's weights, [3, weights * R, M + N], in its place."""
        count, start = len(self.stacks[index].weights), self.starts[index]
        place = self.lines[:, :, start : start + count * lines.shape[2]]
        place.unflatten(2, (count, -1)).copy_(lines.unflatten(1, (count, -1)).transpose(1, 2))

    def _whole(self, sums: Tensor) -> Tensor:
        """Return sums over what is here of the lines and weights as sums over all of them."""
        return sums

    @torch.no_grad()
    def before(self, alive: Tensor) -> None:
        """Take the gradients of the coming update, all of them there and none yet clipped or decayed.

        Args:
            alive: bool [R]; a dead replica's weights should not move.
        """
        self.scale = torch.where(alive, self.scales[self.taken], 0.0)
        clip = self._clip_factor() if self.spec.clip > 0 else None
        for stack in self.stacks:
            weight, gradient = joined(stack.weights), joined([w.grad for w in stack.weights])
            assert weight is not None
            if gradient is not None and clip is not None:
                gradient = gradient * per_replica(clip.repeat(len(stack.weights)), gradient).to(gradient.dtype)
            for block in stack.blocks:
                stack.old[block].copy_(weight[block])
                if gradient is not None:
                    self._gather(stack, block, gradient[block])

    def _gather(self, stack: Stack, block: Block, gradient: Tensor) -> None:
        """Take up the gradient of a block of some weights."""
        spec = self.spec
        if spec.optimizer == "adamw":
            mean, square = (x[block] for x in stack.state)
            mean.mul_(spec.beta1).add_(gradient, alpha=1 - spec.beta1)
            square.mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
            return
        if spec.weight_decay > 0:
            decay = per_replica(stack.weight_decay[block[0]], gradient).to(gradient.dtype)
            gradient = torch.addcmul(gradient, stack.old[block], decay)
        velocity, step = (x[block] for x in stack.state)
        velocity.mul_(spec.momentum).add_(gradient)
        torch.add(gradient, velocity, alpha=spec.momentum, out=step)

    @torch.no_grad()
    def after(self) -> None:
        """Compare the update that was made with the one that should have been, and keep the worst since `take`."""
        self.taken += 1
        whole = []
        for index, (stack, factors) in enumerate(zip(self.stacks, self._factors(), strict=True)):
            now, old = joined(stack.weights), stack.old
            assert now is not None
            n_rows, n_columns = now.shape[1:]
            lines = now.new_empty(3, len(now), n_rows + n_columns)
            rows, columns = lines[:, :, :n_rows], lines[:, :, n_rows:]
            pull = now.new_zeros(len(now))
            for replicas, some in stack.blocks:
                block = replicas, some
                step, wrong, product = (x[: now[block].numel()].view(now[block].shape) for x in self.scratch)
                self._expected(stack, block, [factor[replicas] for factor in factors], out=step)
                torch.sub(now[block], old[block], out=wrong).sub_(step)
                pull[replicas] += torch.mul(wrong, old[block], out=product).sum((1, 2))
                for k, (one, other) in enumerate(((wrong, wrong), (step, step), (wrong, step))):
                    torch.mul(one, other, out=product)
                    torch.sum(product, 2, out=rows[k, replicas, some])
                    if some.start == 0:
                        torch.sum(product, 1, out=columns[k, replicas])
                    else:
                        columns[k, replicas] += product.sum(1)
            whole.append(torch.stack([pull, torch.linalg.vector_norm(old, dim=(1, 2)).square(), *rows.sum(2)]))
            self._put(index, lines)
        off, steps, inner = self._whole(self.lines)
        of_weights = [each.unflatten(1, (-1, self.n_replicas)).transpose(1, 2) for each in whole]
        self._note(off, steps, inner, self._whole(torch.cat(of_weights, dim=2)))

    def take(self) -> Tensor:
        """Return [len(STATS), weights, R] of the worst update since the last call, the last one if none is off."""
        seen, self.seen = self.seen, self._nothing()
        return seen.transpose(1, 2)

    def held(self) -> dict[str, Tensor]:
        """Return, by name, what the next update is compared by, [R, ...] on a CPU, and `hold` takes."""
        moments = {f"moment/{i}/{j}": x for i, stack in enumerate(self.stacks) for j, x in enumerate(stack.state)}
        return moments | {
            "taken": torch.tensor(self.taken),
            "lines": self.weight_lines,
            "seen": self.seen.transpose(0, 1),
        }

    def hold(self, held: Mapping[str, Tensor]) -> None:
        """Go on from what `held` returned."""
        self.taken = int(held["taken"])
        self.weight_lines.copy_(held["lines"])
        self.seen.copy_(held["seen"].transpose(0, 1))
        for i, stack in enumerate(self.stacks):
            for j, x in enumerate(stack.state):
                x.copy_(held[f"moment/{i}/{j}"])

    def _nothing(self) -> Tensor:
        like = self.weights[0]
        nothing = like.new_zeros(len(STATS), self.n_replicas, self.n_weights)
        nothing[STATS.index("applied")] = 1
        return nothing

    def _clip_factor(self) -> Tensor:
        norms = [torch.linalg.vector_norm(w.grad.flatten(1), dim=1) for w in self.weights if w.grad is not None]
        return torch.clamp(self.spec.clip / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6), max=1.0)

    def _factors(self) -> list[tuple[Tensor, ...]]:
        """Return what each stack's expected update is made with, [weights * R] each, of all in a few calls.

        Of SGD -lr; of AdamW eps before its sum with the root, what the quotient is multiplied by, and -lr times decay.
        """
        spec, dtype, t = self.spec, self.weights[0].dtype, self.taken
        lr = self.lr * self.scale.repeat(self.n_weights)
        if spec.optimizer == "sgd":
            factors = [(-lr).to(dtype)]
        else:
            root = math.sqrt(1 - spec.beta2**t)
            # (m / c1) / (sqrt(v / c2) + eps) = m / (sqrt(v) + eps sqrt(c2)) sqrt(c2) / c1
            factors = [(self.eps * root).to(dtype), lr.to(dtype) * (-root / (1 - spec.beta1**t))]
            factors += [(-lr * self.weight_decay).to(dtype)] if spec.weight_decay > 0 else []
        sizes = [len(stack.old) for stack in self.stacks]
        return list(zip(*(factor.split(sizes) for factor in factors), strict=True))

    def _expected(self, stack: Stack, block: Block, factors: Sequence[Tensor], *, out: Tensor) -> None:
        """Write what should have been added to a block of some weights."""
        first, *more = (per_replica(factor, out) for factor in factors)
        if self.spec.optimizer == "sgd":
            torch.mul(stack.state[1][block], first, out=out)
            return
        mean, square = (x[block] for x in stack.state)
        torch.sqrt(square, out=out).add_(first)
        torch.div(mean, out, out=out).mul_(more[0])
        if len(more) > 1:
            out.addcmul_(stack.old[block], more[1])

    def _note(self, off: Tensor, steps: Tensor, inner: Tensor, whole: Tensor) -> None:
        """Keep what this update says of each weight if it is further off than those before.

        Args:
            off, steps: squares of what the lines are off by, and should have moved by, [R, L]; inner: their product.
            whole: of whole weights <off, weight> and <weight, weight>, and the sums of these three, [5, R, weights].
        """
        n, part, owner = self.n_weights, self.part, self.part // 2
        pull, weight, left, expected, along = whole

        def over(values: Tensor, index: Tensor, size: int, how: str, start: float) -> Tensor:
            filled = torch.full((len(values), size), start, dtype=values.dtype, device=values.device)
            return filled.scatter_reduce_(1, index.expand(len(values), -1), values, how)

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
        summed = [*torch.where(wrong, torch.stack([inner, steps, off]), 0.0), *torch.stack([wrong, telling])]
        along, size, left, n_wrong, n_telling = over(torch.cat(summed), part, 2 * n, "sum", 0.0).chunk(5)
        ends = {
            "wrong": n_wrong,
            "of": n_telling,
            "first": over(torch.where(wrong, self.position, len(part)), part, 2 * n, "amin", len(part)),
            "last": over(torch.where(wrong, self.position, 0), part, 2 * n, "amax", 0),
            "factor": _ratio(along, size),
        }
        # how much of what is off is along the step: 1 where the lines that are off took a multiple of theirs
        now["applied_share"] = (along.square() / (size * left).clamp(min=self.tiny)).view(-1, n, 2).amax(2)
        for name, values in ends.items():
            now |= {f"applied_{axis}_{name}": values[:, at::2] for at, axis in enumerate(("rows", "columns"))}
        noticed, seen = worst > NOTICED, self.seen
        values = torch.stack([now[stat].to(worst.dtype) for stat in STATS])
        values[len(EVERYWHERE) :].masked_fill_(~noticed, 0.0)
        step = STATS.index("applied_step")
        self.seen = torch.where(worst >= seen[STATS.index("applied_misfit")], values, seen)
        first_step = torch.where(seen[step] > 0, seen[step], self.taken)
        self.seen[step] = torch.where(noticed, first_step, seen[step])


def _ratio(off: Tensor, size: Tensor) -> Tensor:
    """Return <made, expected> / <expected, expected>, what was made being `off` more; 1 where nothing was expected."""
    return torch.where(size > 0, 1 + off / size, 1.0)


def _stacks(matrices: Sequence[Tensor], most: int) -> list[list[int]]:
    """Return the numbers of the matrices that go through together: those of one shape, of at most so many values."""
    stacks: list[list[int]] = []
    last: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(matrices):
        stack = last.get(x.shape)
        if stack is None or (len(stack) + 1) * x.numel() > most:
            stacks.append(stack := [])
            last[x.shape] = stack
        stack.append(i)
    return stacks


def _blocks(shape: Sequence[int], most: int) -> list[Block]:
    """Return blocks [replicas, rows] of [R, M, N] that have at most so many values each, or one row."""
    replicas, rows, columns = shape
    alike, some = max(1, most // (rows * columns)), max(1, most // columns)
    return [
        (slice(r, min(r + alike, replicas)), slice(m, min(m + some, rows)))
        for r in range(0, replicas, alike)
        for m in range(0, rows, some)
    ]
