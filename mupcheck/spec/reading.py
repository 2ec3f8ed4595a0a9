"""Sweeps from TOML files and options: defaults filled in, faults in one line."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mupcheck.spec.defaults import sweep_defaults
from mupcheck.spec.sweep import SweepSpec


def load_sweep(path: str | Path, overrides: Mapping[str, Any] | None = None, *, device: str = "cpu") -> SweepSpec:
    """Read a sweep file (TOML) and lay `overrides` over it; what neither gives takes the kind's and device's default.

    Raises:
        ValueError: if the file cannot be read, has an unknown key or a value that cannot work.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the sweep file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    # a rules file is named relative to the sweep file that names it
    names = document.get("parametrizations")
    if isinstance(names, list):
        document["parametrizations"] = [_beside(name, Path(path)) for name in names]
    document.setdefault("name", Path(path).stem)
    return make_sweep(document | dict(overrides or {}), device=device, where=str(path))


def _beside(name: Any, sweep_file: Path) -> Any:
    if isinstance(name, str) and name.endswith(".toml"):
        return str(sweep_file.parent / name)
    return name


def make_sweep(given: Mapping[str, Any], *, device: str = "cpu", where: str = "") -> SweepSpec:
    """Build a SweepSpec from plain values, filling in the defaults of its kind for `device` ("cpu" or "cuda").

    Raises:
        ValueError: one line that names the key, what was given and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"make_sweep() takes a dict of settings, such as {{'kind': 'lr'}}, not a {type(given).__name__}"
        )
    kind = given.get("kind")
    if kind not in ("coord", "lr"):
        raise ValueError(f"{where or 'sweep'}: kind = {kind!r}; a sweep is of kind 'coord' or 'lr'")
    defaults = sweep_defaults(given, device=device)
    try:
        return SweepSpec(**(defaults | dict(given)))
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ValueError(prefix + explain(error, SweepSpec.model_fields)) from None


# pydantic's words that say little to who writes TOML or options
EXPLAINED = {
    "tuple_type": "input should be a list",
    "dict_type": "input should be a table",
    "string_pattern_mismatch": "input should be letters, digits, '.', '_' and '-'",
}


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Return the first fault of a pydantic error as one line: what was given, what is allowed."""
    fault = error.errors()[0]
    location: Sequence[Any] = fault["loc"]
    key = str(location[0]) if location else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(sorted(known))}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message
    if fault["type"] == "too_short":
        return f"{key} is empty; give at least one"
    message = EXPLAINED.get(fault["type"], message)
    given = fault["input"]
    if len(location) > 1:
        return f"{key}: {given!r} is not allowed: {message[0].lower()}{message[1:]}"
    return f"{key} = {given!r} is not allowed: {message[0].lower()}{message[1:]}"
