"""What a parameter of any model is called, and the modules that use it."""

from dataclasses import dataclass

from torch import nn

from mupcheck.recording.names import WRAPPERS, clean, place_of, unwrapped


@dataclass(frozen=True)
class Use:
    """One place of a parameter: its clean name there, the module that holds it, and the module around that."""

    name: str
    module: nn.Module
    parent: nn.Module

    @property
    def leaf(self) -> str:
        """Return the last part of the name, "weight"."""
        return self.name.rpartition(".")[2]

    @property
    def holder(self) -> str:
        """Return the part before the last, "q_proj" of "layers.0.q_proj.weight"."""
        return self.name.rpartition(".")[0].rpartition(".")[2]

    @property
    def inside(self) -> str:
        """Return the last part that a name table goes by: "q_proj" of "q_proj.weight", "A_log" of "mixer.A_log"."""
        return self.holder if self.leaf in ("weight", "bias") else self.leaf


def uses_of(model: nn.Module) -> dict[nn.Parameter, list[Use]]:
    """Return every parameter with the places where it is held; a tied one has several."""
    model = unwrapped(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Parameter, list[Use]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path = name.rpartition(".")[0]
        above = path.rpartition(".")[0]
        while above.rpartition(".")[2] in WRAPPERS:
            above = above.rpartition(".")[0]
        found.setdefault(parameter, []).append(Use(clean(name), modules[path], modules[above]))
    return found


def in_block(name: str) -> bool:
    """Say whether a name is that of one of several like parts, "layers.0.mlp.up.weight"."""
    return place_of(name)[1] >= 0


def pattern_of(name: str) -> str:
    """Return a name without its numbers: "layers.*.mlp.up.weight" of "layers.3.mlp.up.weight"."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def kind_of(name: str) -> str:
    """Return a name as `pattern_of` does, but for the places of a sequence of single modules, as in "net.0.weight".

    What stands there need not be alike.
    """
    parts = name.split(".")
    return ".".join([pattern_of(".".join(parts[:-2])), *parts[-2:]]) if len(parts) > 2 else name
