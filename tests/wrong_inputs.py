"""Wrong inputs by the hundred: every option and key with values it does not take, damaged files, mistyped commands."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from every_option import COORD_OPTIONS, LR_OPTIONS
from small_sweeps import COORD, LR

SMALL = ("--data", "synthetic", "--widths", "16,32", "--layers", "1", "--heads", "2", "--seeds", "1", "--device", "cpu")
HUGE = "9" * 30
NO_WHOLE_NUMBER = ("many", "1.5", "", "nan", "-1", "0x10", "1e3", "1,2", "½", HUGE, "٣ or 4")
NO_NUMBER = ("much", "", "nan", "-inf", "1e999", "-1", "1/0", "0,1", "\N{FULLWIDTH DIGIT ONE}.5x")
NO_NAME = ("nope", "SGD", " adamw", "adamw,sgd", "0", "\N{GREEK SMALL LETTER MU}", "two words", "x" * 5000)
NO_WIDTHS = ("x", "16;32", "16 32", "16,32.5", "0", "-16", ",", "nan", "16,16", "16,20", "[16", "1e3", "\x00")
NO_STEPS = ("x", "0;1", "0 1", "-1", "0.5", ",", "0,0", "nan", "0,1,x")
NO_LRS = (
    "fast",
    "0",
    "-1",
    "nan",
    "inf",
    ",",
    "1e-3;1e-2",
    "1e-3 1e-2",
    "1:2",
    "2:1:2",
    "1:2:1",
    "1e-300:1e300:2",
    "2^",
)
NO_TABLES = (
    "nope",
    "sp,sp",
    "sp mup",
    "missing.toml",
    ".",
    "folder",
    "MUP",
    "sp;mup",
    "../up.toml",
    ",",
    "sp,",
    "\udcff",
)[:-2]
WRONG = {
    "--widths": NO_WIDTHS,
    "--record": NO_STEPS,
    "--lr": (*NO_LRS, "0.1,0.2"),
    "--lrs": NO_LRS,
    "--parametrization": (*NO_TABLES, "binary.toml", "empty.toml", "folder.toml", "large.toml", "sweep.toml"),
    "--data": (
        "nope",
        "text:",
        "text:missing",
        "text:empty.toml",
        "text:folder",
        "tokens:",
        "tokens:*.none",
        "hf:",
        "TEXT:x",
        "",
    ),
    "--name": ("", ".", "..", "../up", "a/b", "two words", "-", ".hidden", "a\n", "µ", "n" * 101, "a" * 5000, "a\\b"),
    "--config": ("missing.toml", "folder", "binary.toml", "large.toml", "empty.toml", "", "\x00", "x" * 5000),
    "--jobs": ("0", "-1", "x", "1.5", ""),
    "--device": ("abacus", "cuda:x", "cuda:", "gpu", "CPU", "cuda:99", "cuda:-1"),
    "--engine": ("Ray", "Slurm", "LOCAL", "x"),
    "--expect": ("maybe", "PASS", "0"),
    "--out": ("file", "file/deeper", "binary.toml"),
}
# values that are right for one option of those that want a whole number, a number or a name
RIGHT = {"--dtype": (), "--data": (), "--warmup": ("0",), "--eval-tokens": ("0",)}
FLAGS = ("--tied", "--top-up", "--refine", "--halving")


def of_options() -> Iterator[tuple[str, ...]]:
    """Yield commands in which one option has a wrong value."""
    for command, options in (("coord", COORD_OPTIONS), ("lr-sweep", LR_OPTIONS)):
        for name in (*options, "--config", "--jobs", "--device", "--engine", "--expect", "--out"):
            if name in FLAGS:
                yield (command, *SMALL, f"{name}=maybe")
                continue
            for value in _wrong(name, options):
                yield (command, *SMALL, f"{name}={value}")


def _wrong(name: str, options: dict) -> tuple[str, ...]:
    if name in WRONG:
        return WRONG[name]
    value = options[name][2]
    values = NO_NAME if isinstance(value, str) else NO_NUMBER if isinstance(value, float) else NO_WHOLE_NUMBER
    return tuple(each for each in values if each not in RIGHT.get(name, ()))


def of_keys() -> Iterator[tuple[str, str]]:
    """Yield the text of sweep files in which one key has a value of a wrong kind or size, and that key."""
    values = (
        '"x"',
        "[]",
        "[[1]]",
        "{}",
        "{ a = 1 }",
        "nan",
        "-inf",
        "-1",
        "1979-05-27",
        "true",
        '""',
        "[1, 'a']",
        "-0.5",
    )
    for text, options in ((COORD, COORD_OPTIONS), (LR, LR_OPTIONS)):
        for _, key, right in options.values():
            for value in values:
                if not _may_be(key, right, value):
                    yield _with(text, key, value), key
        for line in (
            'kind = "both"',
            "kind = 1",
            "kind = []",
            "name = 3",
            'name = "a/b"',
            'question = ["?"]',
            "expect = 3",
        ):
            yield _with(text, *line.split(" = ", 1)), line.split(" = ")[0]


def _may_be(key: str, right: object, value: str) -> bool:
    """Say whether a value is one for a key after all: a switch, or a name."""
    return isinstance(right, bool) if value == "true" else (key, value) == ("name", '"x"')


def _with(text: str, key: str, value: str) -> str:
    """Return a sweep file with another value of one key."""
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    return "\n".join([*lines, f"{key} = {value}", ""])


JUNK = (
    "frob = ",
    "= 3",
    "[",
    "]]",
    "a = 'b",
    "a = 1 2",
    "x..y = 1",
    "frob = 1",
    "[model]",
    "lr = -1/2",
    'a = "\\q"',
    "\x00",
)


def of_damaged_files(draw: random.Random) -> Iterator[bytes]:
    """Yield sweep files with a line of junk, with noise, or cut within a word."""
    for text in (COORD, LR):
        lines = text.strip().splitlines()
        for junk in JUNK:
            at = draw.randrange(1, len(lines))
            yield "\n".join([*lines[:at], junk, *lines[at:], "frob = 1"]).encode()
        for _ in range(6):
            data = bytearray(text.encode())
            data[draw.randrange(len(data))] = draw.randrange(0x80, 0x100)
            yield bytes(data)
        for encoding in ("utf-16", "utf-16-le", "utf-32", "cp037"):
            yield text.encode(encoding)
        yield (text + "frob" * 20).encode()
        yield (text * 2).encode()  # each key twice


RULES = """name = "mine"\nbase = "sp"\n[[rule]]\nrole = "gate"\nlr = 1\n"""


def of_rules() -> Iterator[str]:
    """Yield the text of rules files that cannot be read."""
    for key, values in {
        "name": ("3", '""', '"sp"', '"a/b"', '".x"', '"two words"', "[]", "true", json.dumps("n" * 101)),
        "base": ("3", '""', '"nope"', '"mine"', "[]", "true"),
        "role": ("3", '""', '"gates"', '"Gate"', "[]", "true"),
        "lr": ("nan", "inf", "9", "-8.5", '"x"', '"1/0"', '"1/2/3"', "[]", "{}", "true", "1979-05-27"),
    }.items():
        for value in values:
            yield "\n".join(f"{key} = {value}" if line.startswith(f"{key} =") else line for line in RULES.splitlines())
    for line in (
        'optimizer = "muon"',
        'mode = "wide"',
        "eps = nan",
        "frob = 1",
        "init = []",
        "lr = 2",
        "role = 'gate'",
    ):
        yield RULES + line
    for end in (
        "[[rule]]",
        '[[rule]]\nrole = "gate"',
        "[rule]",
        "[multiplier]\nlogit = 1",
        "[multiplier]\nlogits = 'x'",
    ):
        yield RULES + end
    yield "rule = 3\n" + RULES
    yield "multiplier = 3\n" + RULES
    yield "summary = 3\n" + RULES


BY_HAND = """
    rules --width 2147483584 | rules --width 256 --base-width 2147483648
    coordd | lrsweep | lr_sweep | COORD | --coord | -x | --frob | -- | coord coord | run
    explain nope | explain Z_BETA | explain '' | explain z_beta q_pre | run a b | run folder | run .
    run /dev/null | plot a b | plot file | plot missing | plot folder | gates missing | gates file
    gates folder | check missing | check file | check folder | check missing --baseline file
    check folder --baseline folder | check results --update-baseline | doctor now | doctor --frob | rules x
    rules -p | rules -p nope | rules -p sp,nope | rules -p sp mup | rules -p folder | rules -p binary.toml
    rules --opt | rules --opt muon | rules --opt adamw,sgd | rules --mode wide | rules --width | rules --width 0
    rules --width -1 | rules --width x | rules --width 1.5 | rules --width 257
    rules --width 256 --base-width 0 | rules --width 256 --heads 0 | rules --width 256 --heads 7
    rules --width 256 --base-width x | rules --width nan | identities x | identities -p nope
    identities --opt muon | identities --mode wide | identities -p sp mup | identities --frob | selftest x
    selftest --opt muon | selftest --mode wide | selftest --repetitions -1 | selftest --repetitions x
    selftest --jobs 0 | coord --widths | coord --widths 256 512 | coord --widths 256, 512
    coord --widths=256 512 1024 | coord --record 0 1 2 | coord -p sp gdn-mup | lr-sweep --lrs 1e-3 1e-2
    lr-sweep --lrs 1e-3, 1e-2 | coord --lrs 1e-3 1e-2 | coord --lr=1e-3=2 | coord --tied --untied=1
    coord --tied yes | coord --seeds 0,1,2 | coord --learning-rate 0.1 | coord --refine | coord --eval-tokens 3
    coord --precision 1 | lr-sweep --record 0 | lr-sweep --top-up | lr-sweep --budget x | lr-sweep --expect pass
    lr-sweep --budget 0 | coord --run-timeout 5w | lr-sweep --run-timeout 0 | lr-sweep --max-runs 0
    lr-sweep --expect fail | coord --expect transfers | coord --all=1 | coord --json=1 | coord -w 256
    coord --width 256 | coord --batch 3 | coord --help=1 | run --widths 16 sweep.toml | run sweep.toml --opt sgd
    run -p sp sweep.toml | coord sweep.toml | lr-sweep sweep.toml | lr-sweep --config sweep.toml --steps 0
    coord -p '' | lr-sweep --steps 3 --warmup 3 | coord --record 0,9 --steps 3 | coord --data tokens:binary.toml
    coord --vocab-size 1 | coord --base-width 17 | coord --head-k-dim 0 | coord --head-v-dim=-1
    coord --heads 5 | coord --widths ５１２;2 | coord --device cuda --jobs none
    lr-sweep --accumulation 3 --batch-size 4 | lr-sweep --clip=-1 | coord --config sweep.toml | run empty.toml
    run large.toml | run binary.toml | run missing.toml | plot '' --frob
"""


def lay_out(folder: Path) -> None:
    """Write the files that wrong inputs name."""
    (folder / "folder").mkdir()
    (folder / "folder.toml").mkdir()
    (folder / "file").write_text("a file, not a folder")
    (folder / "empty.toml").write_text("")
    (folder / "binary.toml").write_bytes(bytes(range(256)))
    (folder / "large.toml").write_bytes(b"#" * (2**20 + 1))
    (folder / "sweep.toml").write_text(LR)
