"""Tables by name, or read from a TOML file: a shipped one with changed rows."""

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from mupcheck.theory.name import MAX_NAME, NAME_RULE, is_name
from mupcheck.theory.parametrization import MODES, MULTIPLIER_SITES, OPTIMIZERS, TABLES, Role, Rule, Table
from mupcheck.theory.toml_file import read_toml


def rules(name: str, *, optimizer: str, mode: str) -> dict[Role, Rule]:
    """Return the exponents of every role in a shipped table or a custom one (see `find_table`).

    Raises:
        ValueError: if the name, optimizer or mode is unknown.
    """
    _choice(optimizer, OPTIMIZERS, "optimizer")
    _choice(mode, MODES, "mode")
    table = find_table(name)
    return {role: table.rule(role, optimizer=optimizer, mode=mode) for role in Role}


def find_table(name: str | Path) -> Table:
    """Return a shipped table by name, or read a custom one from a TOML file.

    Raises:
        ValueError: if `name` is neither; the message lists the shipped names.
    """
    name = str(name)
    if name in TABLES:
        return TABLES[name]
    if name.endswith(".toml"):
        return read_table(Path(name))
    raise ValueError(
        f"unknown parametrization {name!r}; known: {', '.join(TABLES)}, or the path of a .toml file with custom rules "
        "(mupcheck explain tables)"
    )


def read_table(path: Path) -> Table:
    """Read a custom table from TOML: `name`, `base`, `[[rule]]` entries and `[multiplier]`.

    What is left out keeps the base's value.

    Raises:
        ValueError: if the file cannot be read, holds an unknown key, role, optimizer, mode, site or a non-number, or
            two rules for one role under one optimizer in one mode (one for all, then one for this, are no two).
    """
    return parse_table(read_toml(path, "rules file"), str(path))


def parse_table(document: Mapping[str, Any], where: str) -> Table:
    """Build a Table from the parsed TOML of a rules file; `where` names the file in errors (see `read_table`)."""
    _known(document, {"name", "base", "rule", "multiplier", "summary"}, where)
    name, base_name = document.get("name"), document.get("base")
    if name is None or name == "":
        raise ValueError(f"{where}: needs a name of its own, such as name = 'gates-as-hidden'")
    # results of a table are filed and compared under its name
    if not is_name(name):
        shown = repr(name) if len(repr(name)) <= MAX_NAME else repr(name)[:MAX_NAME] + "..."
        raise ValueError(f"{where}: name = {shown} is not allowed; a name is {NAME_RULE}, such as 'gates-as-hidden'")
    if name in TABLES:
        raise ValueError(f"{where}: name {name!r} is a shipped table; give the custom one a name of its own")
    if not isinstance(base_name, str) or base_name not in TABLES:
        raise ValueError(f"{where}: base = {base_name!r} is not a shipped table; known: {', '.join(TABLES)}")
    base = TABLES[base_name]
    rules = {key: dict(base.rules[key]) for key in base.rules}
    multipliers = {mode: dict(base.multipliers[mode]) for mode in MODES}

    entries = document.get("rule", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: rules are written as [[rule]] entries, each with a role")
    ruled: dict[tuple[tuple[str, str], Role], tuple[int, str]] = {}
    for number, entry in enumerate(entries, start=1):
        _known(entry, {"role", "optimizer", "mode", "init", "lr", "eps", "multiplier"}, f"{where}, [[rule]]")
        role = Role(_choice(entry.get("role"), tuple(Role), f"{where}: role"))
        optimizer = _choice(entry.get("optimizer", "all"), (*OPTIMIZERS, "all"), f"{where}: optimizer")
        mode = _choice(entry.get("mode", "all"), (*MODES, "all"), f"{where}: mode")
        exponents = ("init", "lr", "eps", "multiplier")
        changes: dict[str, Any] = {key: _number(entry[key], f"{where}: {key}") for key in exponents if key in entry}
        for key in rules:
            if optimizer in (key[0], "all") and mode in (key[1], "all"):
                other, before = ruled.get((key, role), (0, "all"))
                # one for all optimizers may be followed by one for this optimizer, which then wins
                if other and not (before == "all" and optimizer != "all"):
                    raise ValueError(
                        f"{where}: [[rule]] {other} and [[rule]] {number} are both for role {role} under {key[0]} in "
                        f"{key[1]} mode; write one, or give each its own optimizer or mode"
                    )
                ruled[key, role] = number, optimizer
                rules[key][role] = replace(rules[key][role], source=f"custom: {where}", **changes)

    sites = document.get("multiplier", {})
    if not isinstance(sites, dict):
        raise ValueError(f"{where}: [multiplier] is a table of {', '.join(MULTIPLIER_SITES)}")
    _known(sites, set(MULTIPLIER_SITES), f"{where}, [multiplier]")
    for site, exponent in sites.items():
        for mode in MODES:
            multipliers[mode][site] = _number(exponent, f"{where}: multiplier.{site}")
    summary = document.get("summary", f"custom table over {base_name}")
    if not isinstance(summary, str):
        raise ValueError(f"{where}: summary = {summary!r} is not text")
    return Table(name, rules, multipliers, summary)


def _known(given: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")


def _choice(value: Any, known: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where} = {value!r} is unknown; known: {', '.join(known)}")
    return value


def _number(value: Any, where: str) -> float:
    """Return an exponent: a number, or a fraction as tables print it, such as "-1/2"."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,9}(/0*[1-9]\d{0,8}|\.\d{1,9})?\s*", value, re.ASCII):
        number = float(Fraction(value))
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= 8:
        raise ValueError(
            f'{where} = {value!r} is not an exponent; give a number between -8 and 8, such as -0.5 or "-1/2"'
        )
    return float(number)
