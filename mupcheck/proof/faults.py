"""What a planted fault is: where it is planted, and by what it should be named."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mupcheck.theory.parametrization import Role

BASE = "gdn-mup"
# small enough for a second a fault: 8 seeds tell what is off by 1, or by a factor 2, from noise
WIDTHS, CODE_WIDTHS, SEEDS, RECORD = (64, 128, 256), (32, 64, 128), 8, (0, 1, 3)


@dataclass(frozen=True)
class Where:
    """The weights and sites that a fault is about; what is not given is all.

    Attributes:
        sites: names of weights or of places in the forward pass.
        layer, width: the only one.
        step: the first update that is wrong, from 1.
    """

    sites: tuple[str, ...] = ()
    layer: int | None = None
    width: int | None = None
    step: int = 1

    def about(self, site: str) -> bool:
        """Say whether a site is one of them."""
        return not self.sites or site in self.sites

    def has(self, site: str, layer: int | None, width: int) -> bool:
        """Say whether a site of a layer at a width is one of them; layer None is any."""
        at_layer = self.layer is None or layer is None or layer == self.layer
        return self.about(site) and at_layer and (self.width is None or width == self.width)


EVERYWHERE = Where()


@dataclass(frozen=True, eq=False)
class Fault:
    """One planted fault, of a table, of the training code or of stored numbers.

    Attributes:
        name: in a few words.
        optimizer, mode: where it is planted.
        kind: the group that it is counted in.
        where: what of the model it is about, which is to be named where it is given.
        named: names of findings, rows of causes or words of a reason, of which one must be said; () is any.
        patch: changes to the training code, from `where`.
        edit: what is done to the results, given them and `where`.
        rules: entries of a rules file, without their role's optimizer: (role, field, exponent).
        multipliers: exponents of forward multipliers.
        settings: fields of the sweep that differ, in the correct check beside it too.
        wrong: fields of the sweep that are the fault.
        unseen: why no coordinate check can see it; it must not be caught then.
        harmless: it changes nothing that is required: it must not fail, nor must anything be found.
    """

    name: str
    optimizer: str
    mode: str
    kind: str = "tables"
    where: Where = EVERYWHERE
    named: tuple[str, ...] = ()
    patch: Callable[[Where], Iterable[Any]] | None = None
    edit: Callable[[Any, Where], Any] | None = None
    rules: tuple[tuple[Role, str, float], ...] = ()
    multipliers: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    wrong: Mapping[str, Any] = field(default_factory=dict)
    unseen: str = ""
    harmless: bool = False

    @property
    def planted(self) -> bool:
        """Say whether it is one that a coordinate check must catch."""
        return not self.unseen and not self.harmless
