"""What one recorded step measures of each parameter, on its device, moved to the host in one copy."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupcheck.measuring.probes import SMALL_MATRIX, CoordRow, mean_abs, rms
from mupcheck.measuring.spectral import largest, powers
from mupcheck.recording.names import clean, place_of
from mupcheck.recording.settings import realised
from mupcheck.recording.uses import Use

EVERY_STEP = ("realised_lr", "realised_wd")
Key = tuple[int, str, str, str]  # layer, site, kind, stat


class Spectrum(NamedTuple):
    """A change [n, M, N] whose spectral norm is wanted, times `scale`, or already its Gram matrices of `powers`."""

    key: Key
    scale: float
    x: Tensor
    is_gram: bool


class Sizes:
    """The parameters of a model, their values at the start, and what was measured of them.

    A module whose `act(weight, x)` says how its `weight` acts is believed (`lawful`); of the others the operations
    that use their parameters are.

    Args:
        model: without its wrappers.
        parameters: by name, shared ones once.
        multipliers: of what a parameter's use gives, by the parameter's name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        parameters: dict[str, nn.Parameter],
        multipliers: Mapping[str, float],
    ) -> None:
        check(parameters)
        self.optimizers, self.parameters, self.multipliers = optimizers, parameters, multipliers
        self.initial = {
            name: parameter.detach().clone() for name, parameter in parameters.items() if parameter.requires_grad
        }
        self.lawful_modules = [
            (f"{clean(name)}.weight", module)
            for name, module in model.named_modules()
            if callable(getattr(module, "act", None)) and f"{clean(name)}.weight" in parameters
        ]
        self.lawful: dict[str, Any] = dict(self.lawful_modules)
        self.inputs: dict[str, Tensor | None] = {}
        self.rows: list[CoordRow] = []
        self.seen: set[str] = set()
        self.several: set[str] = set()  # parameters with uses of several kinds
        self._found: dict[Key, Tensor] = {}
        self._known: dict[Key, float] = {}
        self._said: dict[Key, float] = {}

    @property
    def unseen(self) -> tuple[str, ...]:
        """Return the trained matrices whose use was never seen."""
        return tuple(name for name, start in self.initial.items() if start.dim() > 1 and name not in self.seen)

    @property
    def tied(self) -> bool:
        """Say whether a parameter is looked up and multiplied by: embedding and readout in one."""
        return bool(self.several)

    def output(self, site: str, layer: int, out: Any) -> None:
        """Measure what a module returned: the tensor, or the first one in a tuple, a list or a mapping."""
        x = _first_tensor(out)
        if x is None or not x.is_floating_point() or x.numel() == 0:
            return
        if (layer, site, "activation", "rms") not in self._found:
            self._found[layer, site, "activation", "rms"] = rms(x.detach()[None])
            self._found[layer, site, "activation", "mean_abs"] = mean_abs(x.detach()[None])

    def measure(self, step: int, uses: Sequence[Use]) -> float:
        """Measure every parameter before the update of `step`, and return the global norm of the gradient."""
        by_name: dict[str, list[Use]] = defaultdict(list)
        for use in uses:
            if use.x._version == use.version:  # not overwritten since
                by_name[use.name].append(use)
        self.several |= {name for name, mine in by_name.items() if len({use.kind for use in mine}) > 1}
        self.seen |= set(by_name) | set(self.inputs)
        for name, settings in realised(self.optimizers, self.parameters).items():
            site, layer = place_of(name)
            settings["frozen"] = float(name not in self.initial)
            for stat, value in settings.items():
                key = layer, site, "diagnostic", stat
                # lr and decay are compared from step to step; the rest is said again where it changed
                if stat in EVERY_STEP or self._said.get(key) != value:
                    self._known[key] = self._said[key] = value
        spectra: list[Spectrum] = []
        with torch.autocast(next(iter(self.parameters.values())).device.type, enabled=False):
            for name, parameter in self.parameters.items():
                spectra += self._measure(step, name, parameter.detach(), by_name[name])
        self._put_spectral(spectra)
        self.inputs.clear()
        return self._take(step)

    def _measure(self, step: int, name: str, weight: Tensor, uses: Sequence[Use]) -> list[Spectrum]:
        """Measure one parameter; return the changes whose spectral norm is wanted, [n, M, N]."""
        site, layer = place_of(name)
        found, wide = self._found, torch.promote_types(weight.dtype, torch.float32)
        size = rms(weight[None])
        found[layer, site, "weight", "rms"] = size
        if step == 0:
            self._known[layer, site, "diagnostic", "n_values"] = float(weight.numel())
        if name not in self.initial:
            return []
        gradient = self.parameters[name].grad
        if gradient is not None:
            found[layer, site, "weight_grad", "rms"] = rms(gradient.detach()[None])
        if step == 0:
            self._gains(name, size, uses)
            return []
        change = weight.to(wide) - self.initial[name].to(wide)
        moved = rms(change[None])
        found[layer, site, "weight_update", "rms"] = moved
        found[layer, site, "diagnostic", "relative_update"] = moved / size
        if weight.dim() < 2:
            found[layer, site, "effective_update", "rms"] = moved
            return []
        if name in self.lawful and name in self.inputs:
            x = self.inputs[name]
            if x is not None and x.is_floating_point():
                x = x.to(change.dtype)
            found[layer, site, "effective_update", "rms"] = rms(self.lawful[name].act(change, x)[None])
        for kind in dict.fromkeys(use.kind for use in uses):
            mine = [use for use in uses if use.kind == kind]
            by = self.multipliers.get(name)
            outs = [(use.call(change), abs(use.multiplier if by is None else by)) for use in mine]
            at = self._site(site, name, kind)
            found[layer, at, "effective_update", "rms"] = _rms_of(outs)
            if kind != "embedding":
                found[layer, at, "diagnostic", "input_rms"] = _rms_of([(use.x, 1.0) for use in mine])
        key = layer, site, "weight_update", "spectral"
        matrices = _matrices(change, is_conv=bool(uses) and uses[0].kind == "conv")
        large = matrices.numel() > SMALL_MATRIX  # which is not kept until the others are there
        of = powers(matrices) if large else matrices
        spectra = [Spectrum(key, 1.0, of, large)]
        if name not in self.seen:
            natural = math.sqrt(matrices.shape[2] / matrices.shape[1])
            spectra.append(Spectrum((layer, site, "effective_update", "spectral"), natural, of, large))
        return spectra

    def _put_spectral(self, spectra: list[Spectrum]) -> None:
        """Take the spectral norms of changes, of small ones of one shape together; of several in one the largest."""
        small = sorted((each for each in spectra if not each.is_gram), key=lambda each: _alike(each.x))
        done = [each for each in spectra if each.is_gram]
        grams = [each.x for each in done]
        for _, group in groupby(small, key=lambda each: _alike(each.x)):
            grams.append(powers(torch.cat([each.x for each in group])))
        if grams:
            norms = largest(torch.cat([gram.to(grams[0].device) for gram in grams], dim=1))
            counts = [each.x.shape[1] for each in done] + [each.x.shape[0] for each in small]
            for each, norm in zip((*done, *small), norms.split(counts), strict=True):
                self._found[each.key] = norm.max()[None] * each.scale

    def _gains(self, name: str, size: Tensor, uses: Sequence[Use]) -> None:
        """Say how much larger a new weight makes an input that it knows nothing of: its rms times sqrt(fan_in)."""
        site, layer = place_of(name)
        for kind in dict.fromkeys(use.kind for use in uses):
            use = next(use for use in uses if use.kind == kind)
            (fan_in, fan_out), by = use.fans, abs(self.multipliers.get(name, use.multiplier))
            at = self._site(site, name, kind)
            self._found[layer, at, "weight_gain", "rms"] = size * math.sqrt(fan_in) * by
            if kind != "embedding":
                shape = {"fan_in": fan_in, "fan_out": fan_out, "multiplier": by}
                self._known |= {(layer, at, "diagnostic", stat): float(value) for stat, value in shape.items()}

    def _site(self, site: str, name: str, kind: str) -> str:
        return f"{site}@{kind}" if name in self.several else site

    def _take(self, step: int) -> float:
        """Move what was measured to the host, as rows."""
        by_place: dict[tuple[torch.dtype, torch.device], list[Key]] = defaultdict(list)
        for key, value in self._found.items():
            by_place[value.dtype, value.device].append(key)
        parts = [torch.cat([self._found[key] for key in alike]).double().cpu() for alike in by_place.values()]
        keys = [key for alike in by_place.values() for key in alike]
        measured = dict(zip(keys, torch.cat(parts).tolist(), strict=True)) | self._known
        self._found.clear()
        self._known.clear()
        square = 0.0
        for (layer, site, kind, stat), value in measured.items():
            if kind == "effective_update" and value == 0:
                continue  # not moved yet, as behind a readout of zeros; what never moves is found otherwise
            self.rows.append(CoordRow(step, layer, site, kind, stat, [value]))
        for name, parameter in self.parameters.items():
            site, layer = place_of(name)
            square += measured.get((layer, site, "weight_grad", "rms"), 0.0) ** 2 * parameter.numel()
        return math.sqrt(square)


def check(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError where a parameter is one that cannot be measured, or there is none."""
    if not parameters:
        raise ValueError("the model has no parameters; give the one that is trained")
    for name, parameter in parameters.items():
        what = None
        if parameter.is_meta:
            what = "is on the meta device, without values; initialise the model first"
        elif type(parameter.data) is not Tensor:
            what = f"is a {type(parameter.data).__name__}; sharded and quantised weights cannot be recorded"
        elif not parameter.is_floating_point():
            if not parameter.requires_grad:
                continue
            what = f"is of {parameter.dtype}; give a model with weights in a floating-point format"
        if what:
            raise ValueError(f"parameter {name} {what}")


def _matrices(x: Tensor, *, is_conv: bool) -> Tensor:
    """Return a weight as matrices [n, M, N]: a convolution's taps are columns, sides in front of two are as many."""
    if is_conv:
        return x.flatten(1)[None]
    return x.flatten(0, -3) if x.dim() > 2 else x[None]


def _rms_of(parts: Iterable[tuple[Tensor, float]]) -> Tensor:
    """Return the rms over several tensors, each times a number, [1]."""
    parts = list(parts)
    if len(parts) == 1:
        x, by = parts[0]
        return rms(x[None]) * by
    square = torch.stack([rms(x[None]).double() ** 2 * by**2 * x.numel() for x, by in parts]).sum(0)
    return (square / max(sum(x.numel() for x, _ in parts), 1)).sqrt()


def _alike(x: Tensor) -> tuple[str, tuple[int, ...]]:
    return str(x.device), tuple(x.shape[1:])


def _first_tensor(out: Any) -> Tensor | None:
    if isinstance(out, Tensor):
        return out
    values = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()
    return next((x for x in values if isinstance(x, Tensor)), None)
