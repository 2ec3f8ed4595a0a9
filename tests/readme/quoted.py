"""What README.md quotes: its blocks, the commands in them and the lines that it shows below each."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PICTURE = ROOT / "sweeps" / "demo_lr.png"
PICTURE_KEY = "mupcheck lr-sweep"  # of the PNG's text: what the command printed whose results it draws
PICTURED = "loss_vs_lr.png"
LEFT_OUT = "..."
NUMBER = re.compile(r"(?<![\w^.])[+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")
ROUNDING = 0.0101  # two decimals may round another way on another machine
ALIKE = 0.6  # of a line's words, for it to be the same line with other numbers


@dataclass(frozen=True)
class Quote:
    """A command of README.md, what it exits with, and what is shown of its output."""

    command: str
    exit_code: int
    lines: tuple[str, ...]

    @property
    def verb(self) -> str:
        """Return "coord" of "mupcheck coord --widths ..."."""
        return self.command.split()[1]

    @property
    def shown(self) -> list[str]:
        """Return the lines that are of the output."""
        return [line for line in self.lines if line.strip() != LEFT_OUT]

    @property
    def whole(self) -> bool:
        """Say whether all of the output is shown."""
        return len(self.shown) == len(self.lines) > 0


def blocks(language: str) -> list[str]:
    """Return the text of every block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def quotes() -> list[Quote]:
    """Return every command with the lines below it, in the order of the README."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            typed, *lines = part.splitlines()
            command, _, said = typed.partition(" #")
            code = int(said.split()[-1]) if "exits with" in said else 0
            found.append(Quote(command.strip(), code, tuple(line for line in lines if line.strip())))
    return found


def same_line(quoted: str, printed: str, *, rounding: float = ROUNDING) -> bool:
    """Say whether two lines have the same words, blanks aside, and numbers that differ by rounding only."""
    if " ".join(NUMBER.sub("#", quoted).split()) != " ".join(NUMBER.sub("#", printed).split()):
        return False
    pairs = zip(NUMBER.findall(quoted), NUMBER.findall(printed), strict=True)
    return all(a == b or ("." in a and abs(float(a) - float(b)) <= rounding) for a, b in pairs)


def missing_lines(quote: Quote, output: str, *, rounding: float = ROUNDING) -> list[str]:
    """Return the quoted lines that an output lacks in their order; of one shown whole, also what else it has."""
    rest = iter(line for line in output.splitlines() if line.strip())
    missing = []
    for line in quote.shown:
        before = list(rest)
        at = next((i for i, printed in enumerate(before) if same_line(line, printed, rounding=rounding)), None)
        if at is None:
            missing.append(line)
            rest = iter(before)
            continue
        if quote.whole:
            missing += [f"not shown: {printed}" for printed in before[:at]]
        rest = iter(before[at + 1 :])
    return missing + ([f"not shown: {printed}" for printed in rest] if quote.whole else [])


def renewed(quote: Quote, output: str) -> list[str]:
    """Return the lines to show now: of each that is shown the next one that is most like it, none where none is."""
    printed = [line.rstrip() for line in output.splitlines() if line.strip()]
    if quote.whole:
        return printed
    lines, start = [], 0
    for line in quote.lines:
        if line.strip() == LEFT_OUT:
            lines.append(line)
            continue
        likeness = [_likeness(line, candidate) for candidate in printed[start:]]
        if likeness and max(likeness) >= ALIKE:
            start += likeness.index(max(likeness)) + 1
            lines.append(printed[start - 1])
    return lines


def _likeness(one: str, other: str) -> float:
    words = (re.sub("─+", "─", NUMBER.sub("#", line)).split() for line in (one, other))
    return SequenceMatcher(None, *words).ratio()
