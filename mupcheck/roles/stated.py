"""What the user states of parameters, and the rows that a fused one is cut into."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mupcheck.model.layers import Weight
from mupcheck.results.printing import said
from mupcheck.roles.families import Fused, fused_of
from mupcheck.roles.names import Use
from mupcheck.roles.sides import Shape
from mupcheck.theory.parametrization import Role
from mupcheck.theory.topics import nearest

Stated = Mapping[str, Any] | Callable[[nn.Module], Mapping[str, Any]]


def stated_of(roles: Stated | None, model: nn.Module, names: Sequence[str]) -> dict[str, Any]:
    """Return what is stated of each parameter by name; a later pattern wins."""
    given = roles(model) if callable(roles) else roles
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"roles is {said(given)}, expected names with roles, such as {{'blocks.*.scale': 'gate_scalar'}}"
        )
    found: dict[str, Any] = {}
    for pattern, what in given.items():
        matched = [name for name in names if fnmatchcase(name, str(pattern))]
        if not matched:
            near = nearest(str(pattern), tuple(names))
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"roles: no parameter is called {said(pattern)}{hint}")
        found.update(dict.fromkeys(matched, what))
    return found


def _role(word: Any, name: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise ValueError(f"roles: {name} = {said(word)} is no role; known: {', '.join(Role)}") from None


Cut = tuple[str, tuple[tuple[int, int], ...], Role | None]  # part, rows, what is stated of it


def cut(use: Use, shape: Shape, stated: Any) -> list[Cut]:
    """Return the parts of a parameter: one without rows where it is whole."""
    if stated is None and isinstance(use.module, Weight):
        return [("", (), use.module.role)]  # of our own models, where each is stated as it is made
    if stated is None or isinstance(stated, str):
        role = _role(stated, use.name) if stated is not None else None
        fused = fused_of(use.inside, use.parent, shape[0]) if shape and use.leaf in ("weight", "bias") else None
        if fused is None or role is not None:
            return [("", (), role)]
        return [(part, _rows(fused, part), None) for part, _ in fused.parts]
    whole = stated if isinstance(stated, Mapping) else {"parts": stated}
    try:
        parts = [(str(each[0]), int(each[1]), *each[2:]) for each in whole["parts"]]
        fused = Fused(tuple((name, rows) for name, rows, *_ in parts), int(whole.get("blocks", 1)))
    except (TypeError, ValueError, KeyError, IndexError):
        raise ValueError(
            f"roles: {use.name} = {said(stated)} is neither a role nor rows in order, such as "
            '[("q", 64), ("gate", 4, "gate")] or {"parts": [...], "blocks": 4}'
        ) from None
    total = sum(rows for _, rows in fused.parts) * fused.blocks
    if (
        not shape
        or total != shape[0]
        or min(rows for _, rows in fused.parts) < 1
        or len(set(dict(fused.parts))) < len(parts)
    ):
        raise ValueError(f"roles: the parts of {use.name} have {total} rows, and it has {shape[0] if shape else 1}; "
                         "give each part once, with its number of rows at this width")  # fmt: skip
    return [(each[0], _rows(fused, each[0]), _role(each[2], use.name) if len(each) > 2 else None) for each in parts]


def _rows(fused: Fused, part: str) -> tuple[tuple[int, int], ...]:
    """Return where the rows of one part are."""
    size, start = sum(rows for _, rows in fused.parts), 0
    for name, rows in fused.parts:
        if name == part:
            break
        start += rows
    return tuple((block * size + start, block * size + start + rows) for block in range(fused.blocks))


def sliced(shape: Shape, rows: tuple[tuple[int, int], ...]) -> Shape:
    """Return the shape of these rows of a parameter, of all where none are given."""
    return (sum(stop - start for start, stop in rows), *shape[1:]) if rows else shape
