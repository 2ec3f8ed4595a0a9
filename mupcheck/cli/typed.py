"""What a user called an option: as it was typed, or the MUPCHECK_<NAME> that set it."""

import os
import shlex
import sys
from typing import Any


def names_of(ctx: Any) -> dict[str, str]:
    """Return what each parameter of a command is called: the option as it was typed, or the variable that set it."""
    return {str(parameter.name): name_of(parameter, ctx) for parameter in ctx.command.params}


def name_of(parameter: Any, ctx: Any) -> str:
    """Return what a user called one parameter of a command."""
    if parameter.param_type_name == "argument":
        return parameter.name.upper()
    source = ctx.get_parameter_source(parameter.name) if ctx is not None else None
    if source is not None and source.name == "ENVIRONMENT":
        known = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        return next((name for name in known if os.environ.get(name)), parameter.opts[0])
    return typed(*parameter.opts) or parameter.opts[0]


def called(*names: str) -> str:
    """Return that of an option's names which was typed last, or the variable that set it; the first if neither was."""
    return typed(*names) or next((each for each in variables(*names) if os.environ.get(each)), names[0])


def typed(*names: str) -> str | None:
    """Return that of an option's names which was typed last, None if none was."""
    typed = (name for word in reversed(sys.argv[1:]) for name in names if _is_typed(name, word))
    return next(typed, None)


def variables(*names: str) -> list[str]:
    """Return the environment variables that set an option of these names."""
    return ["MUPCHECK_" + name[2:].replace("-", "_").upper() for name in names if name.startswith("--")]


def command_line(*without: str) -> str:
    """Return the command as it was typed, what goes on from what is there to the end: without --fresh and --max-runs.

    Args:
        without: more flags to leave out.
    """
    left_out = {"--fresh", "--keep-failed", "--max-runs", *without}
    words = sys.argv[1:]
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before != "--max-runs" and word not in left_out and not word.startswith("--max-runs=")
    ]
    return shlex.join(["mupcheck", *kept])


def _is_typed(name: str, word: str) -> bool:
    return word == name or word.startswith(f"{name}=" if name.startswith("--") else name)
