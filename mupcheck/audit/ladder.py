"""Ladders: what a model's config is at each width, by a rule or as a file lists it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

from mupcheck.theory.topics import nearest

WIDTH = "hidden_size"


@dataclass(frozen=True)
class Ladder:
    """A way to widen a model.

    Attributes:
        name: of the rule, or of the file.
        fields: (width) -> the fields of the config.
        refuses: (width) -> why there is no such width, "" where there is.
        digest: a hash of what the rule or the file says.
        offers: the widths that it lists; () where it is a rule.
    """

    name: str
    fields: Callable[[int], dict[str, Any]]
    refuses: Callable[[int], str]
    digest: str
    offers: tuple[int, ...] = ()


def rule_ladder(name: str, rule: Mapping[str, Any], divide: Sequence[tuple[str, str | int]]) -> Ladder:
    """Return the ladder of a rule, where a Fraction is a share of the width.

    Args:
        divide: (field, other): the former is a multiple of the other, a field or a number.
    """
    step = _step(rule, divide)

    def fields(width: int) -> dict[str, Any]:
        return {key: int(value * width) if isinstance(value, Fraction) else value for key, value in rule.items()}

    def refuses(width: int) -> str:
        if width >= step and width % step == 0:
            return ""
        below = max(step, width // step * step)
        near = below if width - below <= below + step - width else below + step
        return f"width {width} is not on the ladder {name}, whose widths are multiples of {step}; nearest: {near}"

    return Ladder(name, fields, refuses, _digest({key: str(value) for key, value in rule.items()}))


def _step(rule: Mapping[str, Any], divide: Sequence[tuple[str, str | int]]) -> int:
    """Return the width of which all that a rule can make are multiples."""
    shares = [value for value in rule.values() if isinstance(value, Fraction)]
    for name, by in divide:
        value, other = rule.get(name), rule.get(by) if isinstance(by, str) else by
        # what both grow keeps its ratio
        if isinstance(value, Fraction) and isinstance(other, int):
            shares.append(value / other)
    return lcm(*(share.denominator for share in shares))


def file_ladder(path: Path, rule: Ladder, config: type) -> Ladder:
    """Return the ladder that a JSON file lists: [{"hidden_size": 64, "linear_num_value_heads": 4}, ...].

    A config may give its "width", which else is its hidden_size; fields that it leaves out are as the rule has them.

    Raises:
        ValueError: if it is no such list; the message names the row and the field.
    """
    rows = _rows(path)
    known = _known(config)
    configs: dict[int, dict[str, Any]] = {}
    for i, row in enumerate(rows, 1):
        at = f"{path.name} row {i}"
        if not isinstance(row, dict):
            raise ValueError(f'{at} is {_shown(row)}, expected a config, such as {{"{WIDTH}": 64}}')
        for name, value in row.items():
            if name != "width":
                _check(at, name, value, known, config)
        width = row.get("width", row.get(WIDTH))
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            field = "width" if "width" in row else WIDTH
            is_what = f"is {_shown(width)}" if field in row else "is missing"
            raise ValueError(f"{at}: {field} {is_what}, expected a whole number of at least 1")
        if width in configs:
            raise ValueError(f"{at}: width {width} is there twice; give each width one config")
        given = {name: value for name, value in row.items() if name != "width"}
        if rule.refuses(width) and (open_ := _open(rule, given)):
            raise ValueError(f"{at}: {open_[0]} is missing, and {rule.refuses(width)}")
        configs[width] = {**rule.fields(width), WIDTH: width, **given}
    if not configs:
        raise ValueError(f'{path.name} lists no config; give one for each width, such as [{{"{WIDTH}": 64}}, ...]')
    widths = tuple(sorted(configs))

    def refuses(width: int) -> str:
        if width in configs:
            return ""
        near = min(widths, key=lambda each: abs(each - width))
        return f"width {width} is not in {path.name}, which has {', '.join(map(str, widths))}; nearest: {near}"

    return Ladder(path.name, configs.__getitem__, refuses, _digest(configs), widths)


def _rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"ladder {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"ladder {path} is no JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"ladder {path} is {_shown(rows)}, expected a list of configs, one for each width")
    return rows


def _known(config: type) -> dict[str, Any]:
    """Return the fields of a config class with their defaults."""
    default = config()
    names = {name for name in vars(default) if not name.startswith("_")} | set(getattr(config, "attribute_map", {}))
    return {name: getattr(default, name, None) for name in names}


def _check(at: str, name: str, value: Any, known: Mapping[str, Any], config: type) -> None:
    if name not in known:
        near = nearest(name, tuple(known))
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{at}: {name!r} is no field of {config.__name__}{hint}")
    default = known[name]
    for kind, what in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "a text")):
        if isinstance(default, kind) and value is not None:
            fits = isinstance(value, int | float if kind is float else kind)
            if not fits or (kind is not bool and isinstance(value, bool)):
                raise ValueError(f"{at}: {name} is {_shown(value)}, expected {what}")
            return


def _open(rule: Ladder, given: Mapping[str, Any]) -> list[str]:
    """Return the fields that only the rule could give, which change with width."""
    # a rule is linear in width, so two widths tell what grows; a large power of two is on every rule
    first, second = rule.fields(2**20), rule.fields(2**21)
    return [name for name in first if first[name] != second[name] and name not in given and name != WIDTH]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _digest(what: Mapping[Any, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
