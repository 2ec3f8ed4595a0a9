"""Sweeps from TOML files and options: defaults filled in, faults in one line that names what its user wrote."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mupcheck.spec.defaults import sweep_defaults
from mupcheck.spec.sweep import SweepSpec
from mupcheck.theory.name import MAX_NAME, NAME_RULE
from mupcheck.theory.toml_file import read_toml


def load_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None, *, device: str = "cpu") -> SweepSpec:
    """Read a sweep file (TOML) and lay `overrides` over it; what neither gives takes the kind's and device's default.

    Raises:
        ValueError: if the file cannot be read, has an unknown key or a value that cannot work.
    """
    return make_sweep(lay_over(read_sweep_file(path), overrides or {}), device=device, where=str(path))


def lay_over(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sweep file says with `overrides` in its place.

    Seeds for all are seeds for all, and what the file says of a table alone goes with the table.
    """
    said = dict(document) | dict(overrides)
    if "seeds" in overrides and "seeds_of" not in overrides:
        said.pop("seeds_of", None)
    names = overrides.get("parametrizations")
    # of a rules file the name of its table is not known yet
    if isinstance(names, list | tuple) and not any(str(name).endswith(".toml") for name in names):
        for key in {"expect", "seeds_of"} - set(overrides):
            if isinstance(of_table := said.get(key), Mapping):
                said[key] = {name: value for name, value in of_table.items() if name in names}
    return said


def read_sweep_file(path: str | Path) -> dict[str, Any]:
    """Return what a sweep file says, by key, with its name and with rules files where they are.

    Raises:
        ValueError: if the file cannot be read or is not TOML.
    """
    document = read_toml(Path(path), "sweep file")
    # a rules file is named relative to the sweep file that names it
    names = document.get("parametrizations")
    if isinstance(names, list):
        document["parametrizations"] = [_beside(name, Path(path)) for name in names]
    document.setdefault("name", Path(path).stem)
    return document


def _beside(name: Any, sweep_file: Path) -> Any:
    if isinstance(name, str) and name.endswith(".toml"):
        return str(sweep_file.parent / name)
    return name


def make_sweep(
    given: Mapping[str, Any], *, device: str = "cpu", where: str = "", names: Mapping[str, str] | None = None
) -> SweepSpec:
    """Build a SweepSpec from plain values, filling in the defaults of its kind for `device` ("cpu" or "cuda").

    Args:
        given: values by key of a SweepSpec.
        device: whose defaults are taken.
        where: the file that the values come from, named in errors.
        names: what those keys are called that do not come from there, such as {"n_layers": "--layers"}.

    Raises:
        ValueError: one line that names the key, what was given and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"make_sweep() takes a dict of settings, such as {{'kind': 'lr'}}, not a {type(given).__name__}"
        )
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in ("coord", "lr"):
        raise ValueError(f"{where or 'sweep'}: kind = {kind!r}; a sweep is of kind 'coord' or 'lr'")
    defaults = sweep_defaults(given, device=device)
    try:
        return SweepSpec(**(defaults | dict(given)))
    except ValidationError as error:
        message = explain(error, SweepSpec.model_fields)
    raise ValueError(call(message, names or {}, keys=given, where=where))


def call(message: str, names: Mapping[str, str], *, keys: Collection[str] = (), where: str = "") -> str:
    """Return an error that calls each key of a sweep what its user called it: "--layers 0" for "n_layers = 0".

    A key is named in an error as "key = value" or "key=value", at its start, or, if it has an underscore, anywhere.

    Args:
        message: the error, which names keys of a SweepSpec.
        names: what keys are called: options ("--layers") or variables ("MUPCHECK_LAYERS").
        keys: all that were given; those without a name of their own stand in the file.
        where: the file; it leads the error unless only what has a name of its own is at fault.
    """
    # what a rules file says of its own keys stays as it is
    head, colon, rest = message.partition(":") if message.startswith("parametrizations:") else (message, "", "")
    of_file = [key for key in keys if key not in names and _pattern(key).search(head)]
    of_user = [key for key in names if _pattern(key).search(head)]
    for key in sorted(of_user, key=len, reverse=True):
        head = _renamed(head, key, names[key])
    prefix = f"{where}: " if where and (of_file or not of_user) else ""
    return prefix + head + colon + rest


def _pattern(key: str) -> re.Pattern[str]:
    before, after, equals = r"(?<![-\w./'?])", r"(?![-\w./'])", r"( ?=(?!=) ?(?=\S))"
    if "_" in key:
        return re.compile(rf"{before}{key}{after}{equals}?")
    return re.compile(rf"(?:^{key}{after}{equals}?|{before}{key}{equals})")


def _renamed(message: str, key: str, name: str) -> str:
    """Return a message with a key's name in its place: "--layers 0" or "MUPCHECK_LAYERS=0" for "n_layers = 0"."""
    before_value = " " if name.startswith("-") else "="
    return _pattern(key).sub(lambda found: name + (before_value if found.lastindex else ""), message)


MAX_SHOWN = MAX_NAME + 20  # characters of a value that was refused
# pydantic's words that say little to who writes TOML or options
EXPLAINED = {
    "tuple_type": "input should be a list",
    "dict_type": "input should be a table",
    "string_pattern_mismatch": f"input should be {NAME_RULE}",
    "string_too_long": f"input should be {NAME_RULE}",
}


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Return the first fault of a pydantic error as one line: what was given, what is allowed."""
    fault = error.errors()[0]
    location: Sequence[Any] = fault["loc"]
    key = str(location[0]) if location else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_meant(key, known)}; known: {', '.join(sorted(known))}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message
    if fault["type"] == "too_short":
        return f"{key} is empty; give at least one"
    message = EXPLAINED.get(fault["type"], message)
    if fault["type"] == "less_than_equal":
        message = f"input should be at most {fault['ctx']['le']:,}"
    given = repr(fault["input"])
    if len(given) > MAX_SHOWN:
        given = given[:MAX_SHOWN] + "..."
    if len(location) > 1:
        return f"{key}: {given} is not allowed: {message[0].lower()}{message[1:]}"
    return f"{key} = {given} is not allowed: {message[0].lower()}{message[1:]}"


# what options, papers and other tools call a key
MEANT = {
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("layers", "depth"), "n_layers"),
    "heads": "n_heads",
    **dict.fromkeys(("lr", "learning_rate", "learning_rates"), "lrs"),
    "warmup": "warmup_steps",
    **dict.fromkeys(("parametrization", "p", "tables"), "parametrizations"),
    "width": "widths",
    "seed": "seeds",
}


def _meant(key: str, known: Iterable[str]) -> str:
    close = [MEANT[key]] if key in MEANT else get_close_matches(key.replace("-", "_"), list(known), n=1, cutoff=0.75)
    return f", perhaps {close[0]}" if close else ""
