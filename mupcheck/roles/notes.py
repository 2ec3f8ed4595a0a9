"""What no row of a table speaks of and a user of a table should know of their model."""

from collections.abc import Iterable

from torch import nn

from mupcheck.recording.names import clean, place_of, unwrapped
from mupcheck.roles.infer import Slice
from mupcheck.theory.parametrization import Role

UNEVEN = 1.01  # of the factors by which the sides of a matrix grow
SCALES = ("scaling", "scale", "softmax_scale")


def notes_on(model: nn.Module, base: nn.Module) -> list[str]:
    """Return what a table leaves to the model: softmax attention whose heads grow with width."""
    before = {clean(name): module for name, module in unwrapped(base).named_modules()}
    found: dict[str, None] = {}
    for raw, module in unwrapped(model).named_modules():
        name = clean(raw)
        here, there = (getattr(each, "head_dim", None) for each in (module, before.get(name)))
        softmax = isinstance(module, nn.MultiheadAttention) or any(hasattr(module, each) for each in SCALES)
        if softmax and isinstance(here, int) and isinstance(there, int) and here != there:
            site = place_of(f"{name}.weight")[0].removesuffix(".weight")
            found[
                f"{site}: its heads grow from {there} to {here}; muP divides q.k by the size of a head and not by its "
                "root, which no table does: scale it in the model"
            ] = None
    return list(found)


def uneven(slices: Iterable[Slice]) -> list[str]:
    """Return which hidden matrices have sides that grow by other factors, which SGD's lr would have to follow."""
    found: dict[str, None] = {}
    for each in slices:
        if each.role != Role.HIDDEN or each.fan_in is None:
            continue
        grown = each.fan_in[1] / each.fan_in[0], each.fan_out[1] / each.fan_out[0]
        if max(grown) / min(grown) > UNEVEN:
            site = place_of(each.name)[0] + (f" rows {each.part}" if each.part else "")
            found[
                f"{site}: its fan-in grows by {grown[0]:.3g} and its fan-out by {grown[1]:.3g}; under SGD the lr of "
                "such a matrix goes as fan-out over fan-in (TP-V Table 8), and the table has it for sides growing alike"
            ] = None
    return list(found)
