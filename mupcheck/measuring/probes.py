"""Coordinate sizes at sites and of weights, measured beside training without changing it.

Reductions stay on the device, one number per replica each; `Probe.rows` moves them to the host in one copy.
What each kind means, and what is required of it, is in `mupcheck.theory.required`.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mupcheck.measuring.shadow import STATS, WHERE, Shadow
from mupcheck.measuring.spectral import largest, powers
from mupcheck.measuring.stored import SAMPLE, least_stored_eps, stored_eps
from mupcheck.measuring.sums import Sums
from mupcheck.model.build import named_weights
from mupcheck.model.layers import Embedding, Site, Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.spec.run import RunSpec

# A gate beyond these passes next to no gradient: sigmoid' is below 0.01, or a state kept or dropped as it is.
SATURATION_EDGE = 0.01
SMALL_MATRIX, SMALL_ON_GPU = 2**16, 2**19  # values of a weight
UNIT_EPS = 1e-6  # of q and k of unit norm, as the model states it
# what each norm acts on; the stream is the residual one, wherever it has come to
NORMS = {"norm1": "stream", "norm2": "stream", "final_norm": "stream", "o_norm": "o_raw"}


class CoordRow(NamedTuple):
    """One measured quantity of one step, with the value of every replica."""

    step: int
    layer: int
    site: str
    kind: str
    stat: str
    values: list[float]


@dataclass(frozen=True)
class Realised:
    """What one step really applied to one weight, each [R]."""

    site: str
    layer: int
    lr: Tensor
    weight_decay: Tensor
    eps: Tensor


class Optimizer(Protocol):
    """What a probe asks of an optimizer; weights are counted in the order of `named_weights`."""

    steps_taken: int

    def realised(self, lr_scale: Tensor) -> Sequence[Realised]:
        """Return what a step with `lr_scale` [R] applies to each weight."""
        ...

    def eps_ratios(self) -> Sequence[Tensor] | None:
        """Return how far what eps is added to lies above it at each weight, [R]; None where there is no eps."""
        ...


class Probe:
    """Watches one model: `start` before the forward pass of a recorded step, `finish` after its backward pass.

    Updates are measured from the weights at construction and the activations of the first step watched: step 0. With
    `runs` every update is compared with what they declare, recorded or not: `before_update` and `after_update` stand
    around each.

    Args:
        model: the model, before its first update.
        full: False records the rms of activations alone.
        runs: one per replica.
    """

    def __init__(self, model: LanguageModel, *, full: bool = True, runs: Sequence[RunSpec] | None = None) -> None:
        self.full = full
        self.shadow = Shadow(model, runs) if full and runs else None
        self.n_replicas = model.embedding.weight.shape[0]
        self.norm_eps = model.spec.norm_eps
        self.sites = [(*_place(name), module) for name, module in model.named_modules() if isinstance(module, Site)]
        self.weights = list(named_weights(model))
        self.initial = [module.weight.detach().clone() for _, _, module in self.weights] if full else []
        self.first: dict[tuple[int, str], Tensor] = {}
        self.inputs: dict[tuple[int, str], Tensor] = {}
        self.before: dict[str, Tensor] = {}
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        self.sizes: dict[tuple[int, str, str, str], Tensor] = {}
        self.sums = Sums(self.n_replicas, model.embedding.weight.device)
        self.scratch: Tensor | None = None
        on_cpu = model.embedding.weight.device.type == "cpu"
        self.small = SMALL_MATRIX if on_cpu else SMALL_ON_GPU
        # On a GPU a division of R numbers costs as much as a pass over a weight: all are done at the end, in few calls.
        self.together = not on_cpu
        self.divisors: dict[tuple[int, str, str, str], float] = {}

    def start(self) -> None:
        """Hook every site, and the input of every weight that has one."""
        for layer, site, module in self.sites:
            shown = partial(self._on_site, layer, site)
            hook = shown if self.full else self.sums.hook((layer, site), partial(shown, module, ()))
            self.handles.append(module.register_forward_hook(hook))
        if self.full:
            for site, layer, weight in self.weights:
                self.handles.append(weight.register_forward_pre_hook(partial(self._on_input, layer, site)))

    def before_update(self, alive: Tensor) -> None:
        """Take the gradients as the backward pass left them; alive: bool [R], what should be updated."""
        if self.shadow is not None:
            self.shadow.before(alive)

    def after_update(self) -> None:
        """Compare what the update did with what it should have done."""
        if self.shadow is not None:
            self.shadow.after()

    @torch.no_grad()
    def finish(self, optimizer: Optimizer, lr_scale: Tensor) -> None:
        """Unhook, and measure weights, their gradients and updates, and what the optimizer applies at `lr_scale`."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        if not self.full:
            self._divide()
            for (layer, site), size in self.sums.take().items():
                self._put(layer, site, "activation", "rms", size)
            return
        moved = bool(optimizer.steps_taken)
        small: dict[torch.Size, list[tuple[int, str, Tensor]]] = defaultdict(list)
        spectra: list[tuple[int, str, Tensor]] = []
        formats = least_stored_eps([module.weight for _, _, module in self.weights]) if moved else []
        ratios = optimizer.eps_ratios() if moved else None
        moves = self._changes() if moved else iter(())
        relative: list[tuple[tuple[int, str, str, str], Tensor, Tensor]] = []
        for index, (site, layer, module) in enumerate(self.weights):
            put, put_size = partial(self._put, layer, site), partial(self._put_size, layer, site)
            size = put_size("weight", "rms", module.weight)
            if not moved:
                put("diagnostic", "n_values", torch.full_like(size, module.weight[0].numel()))
            if module.weight.grad is not None:
                put_size("weight_grad", "rms", module.weight.grad)
            if not moved:
                continue
            change = next(moves)
            change_size = put_size("weight_update", "rms", change)
            put("diagnostic", "relative_update", change_size)  # over size, with the others
            relative.append(((layer, site, "diagnostic", "relative_update"), change_size, size))
            put("diagnostic", "stored_eps", formats[index])
            if change.dim() == 3 and not isinstance(module, Embedding):
                # small ones of one shape go together: alone they cost calls, not arithmetic
                if change[0].numel() <= self.small:
                    small[change.shape].append((layer, site, change))
                else:
                    spectra.append((layer, site, powers(change)))
            x = self.inputs.get((layer, site))
            if x is not None and x.is_floating_point():
                x = x.to(change.dtype)  # under autocast it may be bfloat16, which would round the change away
            put_size("effective_update", "rms", module.act(change, x))
            if ratios is not None:
                put("diagnostic", "adam_eps_ratio", ratios[index])
        if relative:
            keys, changes, of = zip(*relative, strict=True)
            self.sizes |= zip(keys, torch._foreach_div(changes, of), strict=True)
        self._divide()
        for alike in small.values():
            grams = powers(torch.cat([change for _, _, change in alike])).split(self.n_replicas, dim=1)
            spectra += [(layer, site, gram) for (layer, site, _), gram in zip(alike, grams, strict=True)]
        self._put_spectral(spectra)
        for applied in optimizer.realised(lr_scale):
            put = partial(self._put, applied.layer, applied.site, "diagnostic")
            put("realised_lr", applied.lr)
            put("realised_wd", applied.weight_decay)
            put("realised_eps", applied.eps)
        self.inputs.clear()
        self.before.clear()

    def rows(self, step: int) -> list[CoordRow]:
        """Return what was measured since the last call, before the next update, moved to the host in one copy.

        A weight that a sample of its values shows as rounded is looked at as a whole, which takes another.
        """
        if not self.sizes:
            return []
        keys = list(self.sizes)
        values = _stacked(list(self.sizes.values()))
        if self.shadow is not None and self.shadow.taken:
            keys += [(layer, site, "diagnostic", stat) for stat in STATS for layer, site in self.shadow.places]
            values = torch.cat([values, self.shadow.take().flatten(0, 1).double()])
        self.sizes.clear()
        measured = dict(zip(keys, values.tolist(), strict=True))
        for site, layer, module in self.weights:
            key = (layer, site, "diagnostic", "stored_eps")
            rounded = max(measured.get(key, [0.0])) > torch.finfo(module.weight.dtype).eps
            if rounded and module.weight[0].numel() > SAMPLE:
                measured[key] = stored_eps(module.weight.detach()).double().tolist()
        # where an update departs is said of those that do
        return [CoordRow(step, *key, row) for key, row in measured.items() if key[3] not in WHERE or any(row)]

    def _put(self, layer: int, site: str, kind: str, stat: str, value: Tensor) -> None:
        self.sizes[layer, site, kind, stat] = value

    def _put_size(self, layer: int, site: str, kind: str, stat: str, x: Tensor) -> Tensor:
        """Put the rms or the mean |x| of each replica; return it, or in place of the rms what it is in proportion to.

        Ratios of that are right between tensors of one shape.
        """
        size: Tensor
        if self.together:
            size, divisor = _norm(x, 2 if stat == "rms" else 1)
            self.divisors[layer, site, kind, stat] = divisor
        else:
            size = rms(x) if stat == "rms" else mean_abs(x)
        self._put(layer, site, kind, stat, size)
        return size

    def _divide(self) -> None:
        """Make sizes of all norms that were put."""
        if not self.divisors:
            return
        by_dtype: dict[torch.dtype, list[tuple[int, str, str, str]]] = defaultdict(list)
        for key in self.divisors:
            by_dtype[self.sizes[key].dtype].append(key)
        for keys in by_dtype.values():
            divided = torch._foreach_div([self.sizes[key] for key in keys], [self.divisors[key] for key in keys])
            self.sizes |= zip(keys, divided, strict=True)
        self.divisors.clear()

    def _changes(self) -> Iterator[Tensor]:
        """Yield what each weight has moved by; a large one in memory that the next large one takes."""
        pairs = [(module.weight, initial) for (*_, module), initial in zip(self.weights, self.initial, strict=True)]
        few = [pair for pair in pairs if pair[0][0].numel() <= self.small] if self.together else []
        ready = iter(torch._foreach_sub(*map(list, zip(*few, strict=True))) if few else [])
        for weight, initial in pairs:
            if weight[0].numel() <= self.small:
                yield next(ready) if self.together else weight - initial
                continue
            if self.scratch is None:
                self.scratch = weight.new_empty(max(w.numel() for w in self.initial))
            yield torch.sub(weight, initial, out=self.scratch[: weight.numel()].view(weight.shape))

    def _put_spectral(self, grams: list[tuple[int, str, Tensor]]) -> None:
        if not grams:
            return
        norms = largest(torch.cat([gram for _, _, gram in grams], dim=1)).split(self.n_replicas)
        for (layer, site, _), norm in zip(grams, norms, strict=True):
            self._put(layer, site, "weight_update", "spectral", norm)

    def _on_site(self, layer: int, site: str, _module: nn.Module, _args: tuple, out: Tensor) -> None:
        x = out.detach().reshape(self.n_replicas, -1)
        put = partial(self._put, layer, site)
        self._put_size(layer, site, "activation", "rms", x)
        if not self.full:
            return
        self._put_size(layer, site, "activation", "mean_abs", x)
        if (layer, site) in self.first:
            self._put_size(layer, site, "activation_update", "rms", x - self.first[layer, site])
        else:
            self.first[layer, site] = x
            if (expected := self._expected(site, out.detach())) is not None:
                put("diagnostic", "expected_rms", expected)
        if site in ("alpha", "beta"):
            saturated = (x < SATURATION_EDGE) | (x > 1 - SATURATION_EDGE)
            put("diagnostic", f"{site}_saturated", saturated.float().mean(1))
        if site == "o_raw":
            mean_square = out.detach().square().mean(-1).reshape(self.n_replicas, -1)
            put("diagnostic", "o_norm_eps_ratio", mean_square.median(1).values / max(self.norm_eps, 1e-45))
        if out.requires_grad:
            out.register_hook(partial(self._on_gradient, layer, site))

    def _expected(self, site: str, out: Tensor) -> Tensor | None:
        """Return the rms that a norm's output must have over its gain, from what came in, [R]; None of other sites.

        The mean over tokens of ms / (ms + eps), ms the mean square of the input; of q and k, 1/K of that of the sum.
        Of mixer_out that of o_norm * gate, which are large at the same places where a batch repeats one token.
        """
        before = self.before
        if site in ("embedding", "residual"):
            before["stream"] = out
        elif site == "mixer_out" and "stream" in before:
            before["stream"] = before["stream"] + out
            return rms(before["o_norm"].reshape(self.n_replicas, -1) * before["gate"].reshape(self.n_replicas, -1))
        if site in ("o_raw", "q_conv", "k_conv", "o_norm", "gate"):
            before[site] = out
        if site in NORMS and NORMS[site] in before:
            mean_square = _widened(before[NORMS[site]]).square().mean(-1)
            share = mean_square / (mean_square + self.norm_eps)
            return share.reshape(self.n_replicas, -1).mean(1).sqrt()
        elif site in ("q_unit", "k_unit") and f"{site[0]}_conv" in before:
            square = _widened(before[f"{site[0]}_conv"]).reshape(out.shape).square().sum(-1)
            share = square / (square + UNIT_EPS) / out.shape[-1]
            return share.reshape(self.n_replicas, -1).mean(1).sqrt()
        return None

    def _on_gradient(self, layer: int, site: str, gradient: Tensor | None) -> None:
        # what nothing uses (the final state of a sequence) has no gradient
        if gradient is None:
            return
        self._put_size(layer, site, "activation_grad", "rms", gradient.detach().reshape(self.n_replicas, -1))

    def _on_input(self, layer: int, site: str, _module: Weight, args: tuple[Tensor, ...]) -> None:
        if args:
            self.inputs[layer, site] = args[0].detach()


def _place(name: str) -> tuple[int, str]:
    """Return (layer, site) of a Site's module path; layer is -1 outside blocks."""
    parts = name.split(".")
    return (int(parts[1]) if parts[0] == "blocks" else -1), parts[-1]


def rms(x: Tensor) -> Tensor:
    """Return sqrt(mean x^2) of each replica, [R]; x [R, ...]."""
    return torch.div(*_norm(x, 2))


def mean_abs(x: Tensor) -> Tensor:
    """Return mean |x| of each replica, [R]; x [R, ...]."""
    return torch.div(*_norm(x, 1))


def _norm(x: Tensor, order: int) -> tuple[Tensor, float]:
    """Return the norm of each replica, [R], and what it is to be divided by to be that of a mean; x [R, ...]."""
    x = x.flatten(1)
    norm = torch.linalg.vector_norm(x, ord=order, dim=1, dtype=_wide(x))
    return norm, math.sqrt(x.shape[1]) if order == 2 else x.shape[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _stacked(sizes: Sequence[Tensor]) -> Tensor:
    """Return sizes [R], of several dtypes, as one float64 [len, R] in their order, with few calls."""
    by_dtype: dict[torch.dtype, list[int]] = defaultdict(list)
    for i, size in enumerate(sizes):
        by_dtype[size.dtype].append(i)
    parts = torch.cat([torch.stack([sizes[i] for i in alike]).double() for alike in by_dtype.values()])
    places = torch.tensor([i for alike in by_dtype.values() for i in alike])
    return parts[places.argsort().to(parts.device)]


def _widened(x: Tensor) -> Tensor:
    return x.to(_wide(x))
