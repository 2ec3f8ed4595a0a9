"""Which groups of two results belong together: the same table, optimizer and mode, whatever their sweeps are called."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.check import kind_of
from mupcheck.learning_rates.drift import Transfer
from mupcheck.results.comparable import title_of
from mupcheck.results.printing import named
from mupcheck.theory.required import OWN

Answer = Judgement | Transfer
Name = tuple[str, str, str, str]  # kind, parametrization, optimizer, mode


@dataclass(frozen=True)
class Pairs:
    """Answers of A and B that belong together, and those that only one of them has."""

    both: tuple[tuple[Answer, Answer], ...]
    only_a: tuple[Answer, ...]
    only_b: tuple[Answer, ...]


def pair(a: Sequence[Answer], b: Sequence[Answer], *, names: tuple[str, str]) -> Pairs:
    """Pair the answers of two results.

    By kind, parametrization, optimizer and mode; several sweeps with the same of these by their names. Where either
    side has one group alone of a kind, optimizer and mode, these are a pair whatever their tables or models are.

    Args:
        a, b: as `check.answers_of` returns them.
        names: of A and B, for messages.
    Raises:
        ValueError: if it cannot be told which of several sweeps to take.
    """
    by_name = [_grouped(side) for side in (a, b)]
    both: list[tuple[Answer, Answer]] = []
    for name in by_name[0]:
        if name in by_name[1]:
            both += _by_sweep(by_name[0][name], by_name[1][name], names)
    taken = {id(each) for two in both for each in two}
    rest = [[each for each in side if id(each) not in taken] for side in (a, b)]
    for one in list(rest[0]):
        same = [[each for each in side if _setting(each) == _setting(one)] for side in (a, b)]
        if all(len(found) == 1 for found in same) and same[1][0] in rest[1]:
            both.append((one, same[1][0]))
            rest[0].remove(one)
            rest[1].remove(same[1][0])
    return Pairs(tuple(both), *map(tuple, rest))


def _setting(answer: Answer) -> tuple[str, str, str]:
    return kind_of(answer), answer.optimizer, answer.mode


def _grouped(answers: Iterable[Answer]) -> Mapping[Name, list[Answer]]:
    groups: dict[Name, list[Answer]] = {}
    for answer in answers:
        # a model of a user's own is called as its sweep is
        model = answer.sweep if answer.mode == OWN else answer.parametrization
        groups.setdefault((kind_of(answer), model, answer.optimizer, answer.mode), []).append(answer)
    return groups


def _by_sweep(a: Sequence[Answer], b: Sequence[Answer], names: tuple[str, str]) -> list[tuple[Answer, Answer]]:
    """Pair answers of one name: the only two, else those whose sweeps are called the same."""
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    sweeps = {each.sweep: each for each in b}
    found = [(each, sweeps[each.sweep]) for each in a if each.sweep in sweeps]
    if not found:
        side, many = (0, a) if len(a) > 1 else (1, b)
        raise ValueError(
            f"{'AB'[side]}, {names[side]}, has {title_of(many[0])} in {len(many)} sweeps, "
            f"{named([each.sweep for each in many])}, none of them in {names[1 - side]}; give one sweep's folder, "
            f"such as {names[side].rstrip('/')}/{many[0].sweep}"
        )
    return found
