"""Random command lines and mutated sweep files: an answer or one line of what is wrong, never a traceback.

Nothing is trained: what trains is asked with --dry-run, and what would take long by itself is always asked wrongly.
"""

import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wrong_inputs
from commands import Answer, mupcheck
from every_option import COORD_OPTIONS, LR_OPTIONS, options_of
from lines import Line
from small_sweeps import COMMANDS, COORD, LR, tree

SECONDS = 20  # that one may take
DRY = ("coord", "lr-sweep", "run", "audit")
LONG = ("bench", "selftest", "identities", "doctor")
JUDGES = ("check", "judge", "gates", "recommend", "roles", "plot")  # their exit code is a verdict
ASKED = "only exit 0 or 2 (a judge: 0 to 3), no traceback"
FILES = ("file", "folder", "missing", "empty.toml", "binary.toml", "large.toml", "sweep.toml", ".", "", "made.toml")
JUNK = (
    *(
        "",
        " ",
        "-",
        "--",
        "=",
        "nan",
        "-inf",
        "1e999",
        "9" * 30,
        "9" * 5000,
        "-1",
        "0",
        "1",
        "2",
        "16",
        "0x10",
        "1_000",
    ),
    *("½", "٣", "μ", "\u202e", "\U0001f600", "\udcff", "a\nb", "\x1b[31m", "x" * 5000, "%s%n", "{}", "[", "$(x)", "*"),
    *("true", "none", "sp", "mup", "sp,mup", "16,32", "1,,2", ",", ";", "2^-5", "2^99999", "1/3", "1:2:3", "auto"),
    *("../..", "/dev/null", "C:\\x", "text:missing", "tokens:*", "synthetic", "cpu", "cuda:0", "adamw", "1e-3", "0.5"),
)
VALUES = ("3", "-1", "0", "nan", "inf", "1.5", '""', '"x"', "[]", "[[]]", "{}", "true", "1979-05-27", "9" * 40, "1e400")


class TookTooLong(BaseException):
    """Not an Exception, so that no command takes it for one of its own."""


def measure(place: Path, *, times: int = 2000, seed: int = 0) -> Iterator[Line]:
    """Try so many command lines and so many sweep files; yield a line for each."""
    here = Path.cwd()
    wrong_inputs.lay_out(place)
    (place / "made.toml").write_text(COORD)
    os.chdir(place)
    try:
        with _nothing_trained():
            yield _tried("random command lines", command_line, times, seed)
            yield _tried("mutated sweep files", sweep_file, times, seed)
    finally:
        os.chdir(here)


def _tried(says: str, make: Callable[[random.Random], list[str]], times: int, seed: int) -> Line:
    faults, codes, slowest = [], {}, 0.0
    before = tree(Path())
    for number in range(times):
        line = make(random.Random(f"{seed} {says} {number}"))
        start = time.monotonic()
        fault, code = fault_of(line)
        slowest = max(slowest, time.monotonic() - start)
        codes[code] = codes.get(code, 0) + 1
        made = Path("made.toml").read_bytes()
        if fault:
            shown = shlex.join(each[:80] for each in line).encode("utf-8", "backslashreplace").decode()
            faults.append(f"{number}: {shown}: {fault}" + (f" of {made[:2000]!r}" if make is sweep_file else ""))
    if written := {name for name, what in tree(Path()).items() if name != "made.toml" and before.get(name) != what}:
        faults.append(f"something was written: {sorted(written)[:5]}")
    shown = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
    return Line(f"{times} {says}", ASKED, f"{shown}; {slowest:.1f} s at most", not faults, tuple(faults))


def fault_of(line: list[str]) -> tuple[str, int]:
    """Run a command line; return what is wrong with how it ended, "" if nothing is, and its exit code."""
    try:
        with _within(SECONDS):
            answer = mupcheck(*line)
    except TookTooLong:
        return f"it took more than {SECONDS} s", -1
    return wrong_with(line, answer), answer.code


def wrong_with(line: list[str], answer: Answer) -> str:
    allowed = (0, 1, 2, 3) if line and line[0] in JUDGES else (0, 2)
    if answer.code not in allowed:
        return f"exit {answer.code}: {answer.err[-1200:]}"
    if "Traceback" in answer.err or "pydantic" in answer.err:
        return f"a traceback: {answer.err[-1200:]}"
    if answer.code == 2 and line and sum(each.startswith("error: ") for each in answer.err.splitlines()) != 1:
        return f"not one line of what is wrong: {answer.err[:300]!r}"
    return ""


def command_line(draw: random.Random) -> list[str]:
    """Return a command with options of its own and of others, right and wrong, or hardly a command at all."""
    if draw.random() < 0.05:
        short = set(COMMANDS).difference(DRY, LONG)
        return [draw.choice((*JUNK, *sorted(short))) for _ in range(draw.randrange(4))]
    command = draw.choice(COMMANDS if draw.random() < 0.5 else DRY[:3])
    options = [option for option in options_of(command) if option.param_type_name == "option" and option.name != "help"]
    line: list[str] = []
    if command in DRY[:3]:
        line += [*wrong_inputs.SMALL] if command != "run" and draw.random() < 0.8 else []
    for _ in range(draw.choice((0, 1, 1, 2, 2, 3))):
        option = draw.choice(options)
        name = draw.choice([*option.opts, *option.secondary_opts])
        if draw.random() < 0.05:
            name = draw.choice(("--frob", "--", "-x", name + "s", name[:-1], name.upper(), "-", "—" + name[2:]))
        value = _value(name, draw)
        flag = option.is_flag and draw.random() < 0.9
        line += [name] if flag else draw.choice(([name, value], [f"{name}={value}"], [name]))
    if command not in ("coord", "lr-sweep", "rules") or draw.random() < 0.03:
        line.insert(
            draw.randrange(len(line) + 1), draw.choice((*FILES, *["sweep.toml"] * 9) if draw.random() < 0.9 else JUNK)
        )
    if draw.random() < 0.1:
        draw.shuffle(line)
    line = [each.replace("\0", "") for each in line]  # which no command line can hold
    if command in DRY:
        line.insert(0, "--dry-run")
    return [command, *line, *(["--frob"] if command in LONG else [])]


def _value(name: str, draw: random.Random) -> str:
    right = [each[name][0] for each in (COORD_OPTIONS, LR_OPTIONS) if name in each and each[name][0] is not None]
    if right and draw.random() < 0.8:
        return draw.choice(right)
    return draw.choice(wrong_inputs.WRONG.get(name, JUNK) if draw.random() < 0.5 else JUNK)


def sweep_file(draw: random.Random) -> list[str]:
    """Write a mutated sweep file; return the command that reads it."""
    data = bytearray(draw.choice((COORD, LR)).encode())
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = draw.choice(MUTATIONS)(data, draw)
    Path("made.toml").write_bytes(data)
    return ["run", "--dry-run", "made.toml", "--device", "cpu"]


def _flip(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice((1, 1, 3, 20))):
        if data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _cut(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 1, 5, 40, 4000)) :]


def _put(data: bytearray, draw: random.Random) -> bytearray:
    at = draw.randrange(len(data) + 1)
    what = draw.choice(
        [each.encode("utf-8", "surrogateescape") for each in JUNK]
        + [b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\r", b"\r\n", b"\0", b"[" * 5000, b"{a=" * 3000, b"a." * 3000, b'"""']
    )
    return data[:at] + what + data[at:]


def _twice(data: bytearray, draw: random.Random) -> bytearray:
    lines = data.split(b"\n")
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return bytearray(b"\n".join(lines))


def _other(data: bytearray, draw: random.Random) -> bytearray:
    """Give a key another value, of another kind maybe, or the value another key."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    key = lines[at].partition(b"=")[0] if draw.random() < 0.7 else f"{_key(draw)} ".encode()
    value = draw.choice((*VALUES, *(f'"{each}"' for each in JUNK[:20])))
    lines[at] = key + f"= {value}".encode("utf-8", "surrogateescape")
    return bytearray(b"\n".join(lines))


def _key(draw: random.Random) -> str:
    return draw.choice([each[1] for each in (*COORD_OPTIONS.values(), *LR_OPTIONS.values())])


MUTATIONS = (_flip, _cut, _put, _twice, _other, _other)


@contextmanager
def _nothing_trained() -> Iterator[None]:
    """Let a dry run guess its time, and make training a fault; none of the user's settings count."""

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)  # as if it were not installed
        patch.setattr("mupcheck.sweep.estimate.time_widths", lambda *_, **__: {})
        patch.setattr("mupcheck.sweep.runner.run_group", trained)
        patch.setattr("mupcheck.sweep.runner.execute", trained)
        for name in [name for name in os.environ if name.startswith("MUPCHECK_")]:
            patch.delenv(name)
        yield


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
