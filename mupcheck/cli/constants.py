"""The constants that a topic names, as text: `{coordinates.seeds.MOST_SEEDS}` is 64, because the code says so."""

import re
import textwrap
from importlib import import_module
from typing import Any

from mupcheck.terminal.topic_page import COLUMNS

NAMED = re.compile(r"\{(?P<module>[a-z_.0-9]+)\.(?P<name>[A-Z_]+)(?:\[(?P<key>[\w -]+)\])?(?::(?P<form>[^}]*))?\}")


def fill(text: str) -> str:
    """Put the package's constants into a text.

    Raises:
        ImportError, AttributeError, KeyError: if it names one that is not there; a test reads all topics.
    """
    return NAMED.sub(_value, text)


def _value(match: re.Match[str]) -> str:
    value: Any = getattr(import_module(f"mupcheck.{match['module']}"), match["name"])
    if match["key"] is not None:
        value = value[match["key"]]
    if match["module"] == "results.tables":
        return _columns(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return format(getattr(value, "summary", value), match["form"] or "")


def _columns(schema: Any) -> str:
    """Return the columns of a table on disk, one a line, with unit and meaning."""
    lines = []
    for column in schema:
        unit = column.metadata[b"unit"].decode()
        about = column.metadata[b"description"].decode()
        text = f"{about} [{unit}]" if unit not in ("", "1") else about
        lines += textwrap.wrap(text, COLUMNS, initial_indent=f"  {column.name:19}", subsequent_indent=" " * 21)
    return "\n".join(lines)
