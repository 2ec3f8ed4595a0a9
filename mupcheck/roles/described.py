"""The roles of a model's parameters as JSON holds them, for the description of a sweep: `parameters` of sweep.json."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mupcheck.recording.names import place_of
from mupcheck.roles.infer import Slice


def described(slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Return a record for each kind of slice, those of alike layers in one, in the order of the model.

    Each has `site`, the name of its parameter in the coords, `rows`, the name of some of its rows or "", `count`,
    `growth`, the powers of width by which fan-in and fan-out grow, `matrix`, `role` or None, `why`, or what is unclear.
    """
    kinds = Counter(_kind(each) for each in slices)
    names = ("site", "rows", "growth", "matrix", "role", "why")
    return [{**dict(zip(names, kind, strict=True)), "count": count} for kind, count in kinds.items()]


def _kind(each: Slice) -> tuple[Any, ...]:
    role = None if each.role is None else str(each.role)
    growth = tuple(round(power, 6) for power in each.growth)
    return place_of(each.name)[0], each.part, growth, len(each.shape) > 1, role, each.question or each.why
