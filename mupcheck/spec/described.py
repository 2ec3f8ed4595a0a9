"""What `help()` shows of a spec: a signature that fits a screen, and a line for each field."""

import textwrap
from inspect import Parameter, Signature, cleandoc, formatannotation
from typing import Any, get_type_hints

from pydantic import BaseModel

COLUMNS = 76  # help puts four more before each line


def describe_fields(spec: type[BaseModel]) -> tuple[Signature, str]:
    """Return a signature of the required fields, `**fields` for the rest, and the docstring with every field below."""
    fields = spec.model_fields
    required = [name for name, field in fields.items() if field.is_required()]
    parameters = [Parameter(name, Parameter.KEYWORD_ONLY) for name in required]
    if len(required) < len(fields):
        parameters.append(Parameter("fields", Parameter.VAR_KEYWORD))
    types = get_type_hints(spec)
    lines = ["Fields:"]
    for name in [*required, *(name for name in fields if name not in required)]:
        words = f"{name}: {formatannotation(types[name]).replace('typing.', '')}"
        if not fields[name].is_required():
            words += f" = {fields[name].get_default(call_default_factory=True)!r}"
        if fields[name].description:
            words += f"; {fields[name].description}"
        lines += textwrap.wrap(words, COLUMNS, initial_indent="    ", subsequent_indent="        ")
    return Signature(parameters), "\n".join([cleandoc(spec.__dict__.get("__doc__") or ""), "", *lines])


def set_help(spec: Any) -> None:
    """Give a spec the signature and docstring that `help()` shows."""
    spec.__signature__, spec.__doc__ = describe_fields(spec)
