"""Commands that print their help in panels of whole words, and say what is wrong with a list that has blanks."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mupcheck.cli.exits import USAGE
from mupcheck.cli.options import LISTS, PANELS, commands_of, with_commas
from mupcheck.cli.typed import name_of
from mupcheck.terminal.console import is_plain

WIDEST, NARROW = 100, 66  # columns; below the latter a text stands under what it explains
LEFT = 26  # columns of what is explained, beside its text
# option of a sweep -> the commands that take it
OF_SWEEPS = {
    name: " or ".join(command.replace("lr", "lr-sweep") for command in ("coord", "lr") if command in commands)
    for name, commands in commands_of().items()
}
# what the value of an option without a metavar is, by its type, as versions of typer tell it
VALUES = {int: "N", float: "X", Path: "PATH", "integer": "N", "integer range": "N", "float": "X", "path": "PATH"}


class Command(TyperCommand):
    """A command whose help is plain text in panels, and whose lists want commas."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usage, what the command does, and its options by panel."""
        formatter.write(_text(self, ctx, _options(self, ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; where words are left over after the value of a list, say that a list has commas."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if "unexpected extra argument" in str(error) and (said := _blanks(self, words)):
                raise ValueError(said) from None
            if self.name == "run" and (name := getattr(error, "option_name", "")) in OF_SWEEPS:
                other = f"mupcheck {OF_SWEEPS[name]} --config FILE {name} ..."
                raise ValueError(
                    f"run takes no {name}, it stands in the file; to set another for once: {other}"
                ) from None
            raise


class Group(TyperGroup):
    """The commands together; without one the help is shown, and the usage was wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a pipe of its own that broke is a fault to be told, which typer ends with 1 and no word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OSError("a process that mupcheck wrote to is gone") from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; without a command show the help."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(USAGE)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usage, what the tool does, its commands and its options."""
        shown = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
        commands = [(name, _paragraphs(self.commands[name].help)[0]) for name in shown]
        formatter.write(_text(self, ctx, [("Commands", commands), *_options(self, ctx)]))


def _options(command: Any, ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the panels of a command that have options: their names, and (option, text) of each."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": _arguments(command)}
    panels |= {panel: [] for panel in (*PANELS, "Options")}
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument":
            continue
        opts = sorted(parameter.opts, key=len) if parameter.name == "help" else parameter.opts  # which come from a set
        names = ", ".join(opts) + "".join(f" / {other}" for other in parameter.secondary_opts)
        value = "" if parameter.is_flag else f" {parameter.metavar or _value_of(parameter)}"
        panels[parameter.rich_help_panel or "Options"].append((names + value, parameter.help or ""))
    return [(panel, rows) for panel, rows in panels.items() if rows]


def _value_of(option: Any) -> str:
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    return VALUES.get(kind or getattr(getattr(option, "type", None), "name", None), "VALUE")


def _arguments(command: Any) -> list[tuple[str, str]]:
    """Return the arguments of a command, in brackets where they may be left out, and their texts."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    names = [each.name.upper() if each.required else f"[{each.name.upper()}]" for each in arguments]
    return [(name, each.help or "") for name, each in zip(names, arguments, strict=True)]


def _text(command: Any, ctx: Any, panels: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Return a help page as wide as the terminal, at most WIDEST."""
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    after = ["COMMAND", "..."] if isinstance(command, Group) else [name for name, _ in _arguments(command)]
    usage = " ".join(["[OPTIONS]", *after])
    parts = ["\n".join(_wrapped(f"Usage: {ctx.command_path} {usage}", columns, later="  "))]
    parts += ["\n".join(_wrapped(text, columns)) for text in _paragraphs(command.help)]
    for panel, rows in panels:
        lines = [panel if is_plain(sys.stdout) else typer.style(panel, bold=True)]
        for name, text in rows:
            lines += _row(name, text, columns)
        parts.append("\n".join(lines))
    variables = any(getattr(parameter, "envvar", None) for parameter in command.params)
    if variables:
        said = "MUPCHECK_<OPTION> sets an option too, such as MUPCHECK_DEVICE=cpu; what is typed wins over it."
        parts.append("\n".join(_wrapped(said, columns)))
    return "\n\n".join(parts) + "\n"


def _row(name: str, text: str, columns: int) -> Iterator[str]:
    """Yield what is explained and its text: side by side where there is room, else below each other."""
    if columns < NARROW:
        yield from _wrapped(name, columns, first="  ", later="    ")
        yield from _wrapped(text, columns, first="      ", later="      ")
        return
    beside = " " * (LEFT + 2)
    first = f"  {name}"
    if len(first) > LEFT:
        yield from _wrapped(name, columns, first="  ", later="    ")
        first = ""
    yield from _wrapped(text, columns, first=first.ljust(LEFT + 2), later=beside)


def _wrapped(text: str, columns: int, first: str = "", later: str = "") -> list[str]:
    """Return lines of whole words."""
    return textwrap.wrap(
        text,
        max(columns, 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n")]


def _blanks(command: Any, words: Sequence[str]) -> str | None:
    """Return the error for a list that was written with blanks, None where none was."""
    lists = [name for parameter in command.params if parameter.name in (*LISTS, "tables") for name in parameter.opts]
    for at, word in enumerate(words):
        name, equals, first = word.partition("=")
        if name in lists:
            values = list(takewhile(lambda word: not word.startswith("-"), words[at + 1 :]))
            values = [first, *values] if equals else values
            if len(values) > 1:
                return with_commas(name, values)
    return None


def fault_of(error: Any) -> str:
    """Return a usage error in one line that calls a parameter what its user called it, and quotes what it was given."""
    parameter, message = getattr(error, "param", None), error.format_message()
    if parameter is not None and parameter.param_type_name == "argument" and not error.message:
        return f"{name_of(parameter, error.ctx)} is missing; see {error.ctx.command_path} --help"
    if parameter is None or not error.message:
        return message
    name = name_of(parameter, error.ctx)
    value = os.environ.get(name, _typed(name))
    wanted = error.message[0].lower() + error.message[1:]
    for word, plain in (("integer", "a whole number"), ("boolean", "true or false"), ("number", "a number")):
        if f"valid {word}" in error.message:
            wanted = f"input should be {plain}"
    return f"{name} is not allowed: {wanted}" if value is None else f"{name} {value!r} is not allowed: {wanted}"


def _typed(name: str) -> str | None:
    """Return the value that was typed for an option last."""
    found = None
    for word, after in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if word == name:
            found = after
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found
