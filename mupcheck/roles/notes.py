"""What no row of a table speaks of and a user of a table should know of their model."""

from torch import nn

from mupcheck.recording.names import clean, place_of, unwrapped

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
