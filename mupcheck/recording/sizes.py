"""What one recorded step measures of each parameter, on its device, moved to the host in one copy."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, groupby, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupcheck.measuring.probes import SMALL_MATRIX, CoordRow
from mupcheck.measuring.spectral import largest, powers
from mupcheck.recording.names import clean
from mupcheck.recording.pieces import Piece, Rows, pieces_of
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
        rows: of fused parameters, the rows (start, stop) of each part, which is then measured alone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        parameters: dict[str, nn.Parameter],
        multipliers: Mapping[str, float],
        rows: Mapping[str, Mapping[str, Rows]] | None = None,
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
        self.pieces: dict[str, list[Piece]] = {
            name: pieces_of(name, parameter, {} if name in self.lawful else (rows or {}).get(name, {}))
            for name, parameter in parameters.items()
        }
        # flat, so that Python's garbage collector has nothing to walk through while a model trains
        self._rows: tuple[list[Any], ...] = tuple([] for _ in range(6))
        self.seen: set[str] = set()
        self.several: set[str] = set()  # parameters with uses of several kinds
        self._found: dict[Key, tuple[Tensor, float]] = {}  # a tensor of one value, and a number to multiply it by
        self._known: dict[Key, float] = {}
        self._said: dict[str, dict[str, float]] = {}

    @property
    def rows(self) -> list[CoordRow]:
        """Return what was measured so far, a row each."""
        rows = zip(*self._rows, strict=True)
        return [CoordRow(step, layer, site, kind, stat, [value]) for step, layer, site, kind, stat, value in rows]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Return the trained matrices whose use was never seen."""
        return tuple(name for name, start in self.initial.items() if not _is_vector(start) and name not in self.seen)

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
            x = x.detach()
            norms = (torch.linalg.vector_norm(x, order, dtype=_wide(x)) for order in (2, 1))
            self._found[layer, site, "activation", "rms"] = next(norms), x.numel() ** -0.5
            self._found[layer, site, "activation", "mean_abs"] = next(norms), 1 / x.numel()

    def measure(self, step: int, uses: Sequence[Use]) -> float:
        """Measure every parameter before the update of `step`, and return the global norm of the gradient."""
        by_name: dict[str, list[Use]] = defaultdict(list)
        for use in uses:
            if use.x._version == use.version:  # not overwritten since
                by_name[use.name].append(use)
        self.several |= {name for name, mine in by_name.items() if len({use.kind for use in mine}) > 1}
        self.seen |= set(by_name) | set(self.inputs)
        for name, settings in realised(self.optimizers, self.parameters).items():
            settings["frozen"] = float(name not in self.initial)
            said = self._said.get(name, {})
            # lr and decay are compared from step to step; the rest is said again where it changed
            changed = {stat: x for stat, x in settings.items() if stat in EVERY_STEP or said.get(stat) != x}
            for piece, (stat, value) in product(self.pieces[name], changed.items()):
                self._known[piece.layer, piece.site, "diagnostic", stat] = value
            self._said[name] = settings
        with torch.autocast(next(iter(self.parameters.values())).device.type, enabled=False):
            self._put_norms("weight", {name: parameter.detach() for name, parameter in self.parameters.items()})
            gradients = {name: self.parameters[name].grad for name in self.initial}
            self._put_norms("weight_grad", {name: x.detach() for name, x in gradients.items() if x is not None})
            if step > 0:
                self._put_changes(by_name)
            for piece in () if step > 0 else chain.from_iterable(self.pieces.values()):
                self._gains(piece, by_name[piece.name])
        self.inputs.clear()
        return self._take(step)

    def _put_norms(self, kind: str, of: Mapping[str, Tensor]) -> None:
        """Take the rms of each piece of many tensors, which are named as the parameters are, with few calls."""
        by_dtype: dict[torch.dtype, list[tuple[Piece, Tensor]]] = defaultdict(list)
        for name, x in of.items():
            by_dtype[_wide(x)] += [(piece, piece.of(x)) for piece in self.pieces[name]]
        for dtype, parts in by_dtype.items():
            norms = torch._foreach_norm([x for _, x in parts], 2, dtype)
            for (piece, _), norm in zip(parts, norms, strict=True):
                self._found[piece.layer, piece.site, kind, "rms"] = norm, max(piece.n_values, 1) ** -0.5

    def _put_changes(self, uses: Mapping[str, list[Use]]) -> None:
        """Measure changes and what they do; those of large weights one by one, so that one is kept at a time."""
        by_dtype: dict[torch.dtype | str, list[str]] = defaultdict(list)
        for name, start in self.initial.items():
            by_dtype[start.dtype if start.numel() <= SMALL_MATRIX else name].append(name)
        spectra: list[Spectrum] = []
        for names in by_dtype.values():
            # in float32 at least; one of that already is not copied
            weights, starts = (
                [x.detach().to(_wide(x)) for x in map(of.__getitem__, names)] for of in (self.parameters, self.initial)
            )
            changes = dict(zip(names, torch._foreach_sub(weights, starts), strict=True))
            self._put_norms("weight_update", changes)
            for name, change in changes.items():
                for piece in self.pieces[name]:
                    spectra += self._put_effect(piece, piece.of(change), piece.uses(uses.get(name, [])))
        self._put_spectral(spectra)

    def _put_effect(self, piece: Piece, change: Tensor, uses: Sequence[Use]) -> list[Spectrum]:
        """Measure what the change of one piece does; return the changes whose spectral norm is wanted."""
        (name, site, layer), found = piece[:3], self._found
        if change.dim() < 2 or (_is_vector(change) and not uses):
            found[layer, site, "effective_update", "rms"] = found[layer, site, "weight_update", "rms"]
            return []
        if name in self.lawful and name in self.inputs:
            x = self.inputs[name]
            if x is not None and x.is_floating_point():
                x = x.to(change.dtype)
            found[layer, site, "effective_update", "rms"] = _rms_of([(self.lawful[name].act(change, x), 1.0)])
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
                self._found[each.key] = norm.max(), each.scale

    def _gains(self, piece: Piece, of_whole: Sequence[Use]) -> None:
        """Say how much larger a new weight makes an input that it knows nothing of: its rms times sqrt(fan_in)."""
        name, site, layer = piece[:3]
        norm, per_value = self._found[layer, site, "weight", "rms"]
        self._known[layer, site, "diagnostic", "n_values"] = float(piece.n_values)
        if name not in self.initial:
            return
        uses = piece.uses(of_whole)
        for kind in dict.fromkeys(use.kind for use in uses):
            use = next(use for use in uses if use.kind == kind)
            (fan_in, fan_out), by = use.fans, abs(self.multipliers.get(name, use.multiplier))
            at = self._site(site, name, kind)
            self._found[layer, at, "weight_gain", "rms"] = norm, per_value * math.sqrt(fan_in) * by * abs(use.before)
            if kind != "embedding":
                shape = {"fan_in": fan_in, "fan_out": fan_out, "multiplier": by}
                self._known |= {(layer, at, "diagnostic", stat): float(value) for stat, value in shape.items()}

    def _site(self, site: str, name: str, kind: str) -> str:
        return f"{site}@{kind}" if name in self.several else site

    def _take(self, step: int) -> float:
        """Move what was measured to the host, as rows."""
        by_place: dict[tuple[torch.dtype, torch.device], list[Key]] = defaultdict(list)
        for key, (norm, _) in self._found.items():
            by_place[norm.dtype, norm.device].append(key)
        measured: dict[Key, float] = {}
        for keys in by_place.values():
            taken = torch.stack([self._found[key][0] for key in keys]).tolist()
            measured |= {key: value * self._found[key][1] for key, value in zip(keys, taken, strict=True)}
        pieces = [*chain.from_iterable(self.pieces.values())]
        for _, site, layer, *_ in pieces:
            if (moved := measured.get((layer, site, "weight_update", "rms"))) is not None:
                size = measured[layer, site, "weight", "rms"]
                measured[layer, site, "diagnostic", "relative_update"] = moved / size if size else math.nan
        measured |= self._known
        self._found.clear()
        self._known.clear()
        square = 0.0
        for (layer, site, kind, stat), value in measured.items():
            if kind == "effective_update" and value == 0:
                continue  # not moved yet, as behind a readout of zeros; what never moves is found otherwise
            for column, entry in zip(self._rows, (step, layer, site, kind, stat, value), strict=True):
                column.append(entry)
        for piece in pieces:
            square += measured.get((piece.layer, piece.site, "weight_grad", "rms"), 0.0) ** 2 * piece.n_values
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


def _is_vector(weight: Tensor) -> bool:
    """Say whether a weight is a vector, or one that is only written with more axes, as [1, 1, H, 1] is."""
    return weight.dim() < 2 or (weight.dim() > 2 and weight.numel() == max(weight.shape))


def _matrices(x: Tensor, *, is_conv: bool) -> Tensor:
    """Return a weight as matrices [n, M, N]: a convolution's taps are columns, sides in front of two are as many."""
    if is_conv:
        return x.flatten(1)[None]
    return x.flatten(0, -3) if x.dim() > 2 else x[None]


def _rms_of(parts: Sequence[tuple[Tensor, float]]) -> tuple[Tensor, float]:
    """Return the rms over several tensors, each times a number: a tensor of one value, and what it is to be times."""
    norms = [torch.linalg.vector_norm(x, 2, dtype=_wide(x)) for x, _ in parts]
    n_values = max(sum(x.numel() for x, _ in parts), 1)
    if len(parts) == 1:
        return norms[0], parts[0][1] * n_values**-0.5
    scaled = [norm.double() * by for norm, (_, by) in zip(norms, parts, strict=True)]
    return torch.linalg.vector_norm(torch.stack(scaled), 2), n_values**-0.5


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _alike(x: Tensor) -> tuple[str, tuple[int, ...]]:
    return str(x.device), tuple(x.shape[1:])


def _first_tensor(out: Any) -> Tensor | None:
    if isinstance(out, Tensor):
        return out
    values = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()
    return next((x for x in values if isinstance(x, Tensor)), None)
