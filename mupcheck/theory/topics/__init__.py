"""What is too long for the README: one text file a topic beside this one, printed by `mupcheck explain TOPIC`.

The first line of a file is its title, the last "See also: " and names of topics. Between them stand blocks, parted by
blank lines: a paragraph, a list of lines that begin with "- ", or lines that begin with two blanks and stay as they
are. `{folder.file.NAME}` stands for that constant of the package, with a format after a colon where it needs one: a
number that the code has is not written here a second time.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files

GROUPS = {
    "coordinate checks": (
        *("slopes", "effective-update", "implied", "validity", "cannot-tell", "top-up", "gates", "eps", "decay"),
    ),
    "learning rates": (
        *("drift", "cost", "penalty", "sensitivity", "divergence", "agreement", "fast-transfer", "wider", "refine"),
    ),
    "tables": ("tables", "modes", "roles"),
    "running": (
        *(
            "judge",
            "data",
            "resume",
            "status",
            "files",
            "figures",
            "report",
            "python",
            "estimates",
            "memory",
            "cpu",
            "gpu",
            "gpus-per-run",
            "ray",
            "slurm",
            "stores",
            "bench",
        ),
    ),
    "trust and CI": ("audit", "ci", "diff", "exit-codes", "identities", "selftest"),
}
TOPICS = tuple(name for names in GROUPS.values() for name in names)
SEE_ALSO = "See also: "


@dataclass(frozen=True)
class Topic:
    """One text: `blocks` as the docstring above has them, constants not yet filled in; `see_also` are topics."""

    name: str
    title: str
    blocks: tuple[str, ...]
    see_also: tuple[str, ...]


def load_topic(name: str) -> Topic:
    """Read one of TOPICS.

    Raises:
        ValueError: if there is no such topic; the message names the nearest.
    """
    if name not in TOPICS:
        near = nearest(name, TOPICS)
        raise ValueError(f"unknown topic {name!r}; {'nearest' if near else 'known'}: {', '.join(near or TOPICS)}")
    text = files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    title, *blocks, last = text.strip().split("\n\n")
    return Topic(name, title, tuple(blocks), tuple(last.removeprefix(SEE_ALSO).split(", ")))


def nearest(word: str, known: tuple[str, ...]) -> list[str]:
    """Return the names that a word was probably meant to be, the likeliest first; capitals do not matter."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)]
