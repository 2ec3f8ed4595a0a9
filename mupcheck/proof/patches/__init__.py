"""Faults of the training code, put into it from outside for the time of a run: no module of it has a hook for them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mupcheck.proof.faults import Where


class Change(NamedTuple):
    """One attribute of a module or a class, and what stands in its place."""

    owner: Any
    name: str
    value: Any


Patch = Callable[[Where], Iterable[Change]]


@contextmanager
def patched(changes: Iterable[Change]) -> Iterator[None]:
    """Make changes to modules and classes, and undo them.

    Raises:
        AttributeError: if an owner has no such attribute: the fault would be planted where nobody looks.
    """
    undo: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, value in changes:
            getattr(owner, name)
            undo.append((owner, name, vars(owner).get(name, undo)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, before in reversed(undo):
            if before is undo:  # it was inherited
                delattr(owner, name)
            else:
                setattr(owner, name, before)
