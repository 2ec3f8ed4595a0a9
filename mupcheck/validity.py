"""Whether a coordinate check can be judged at all: what was seen, what it puts in doubt, and what to change."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that a reader of the verdict must know.

    Attributes:
        name: of the check, such as "saturated" or "missing runs".
        effect: "fail" (a setting that is wrong by itself), "cannot tell" (slopes of `kinds` and `sites` do not count) or
            "warning" (nothing changes).
        text: what was seen, and where.
        advice: what to change.
        kinds, sites: the quantities in doubt; an empty tuple means all.
    """

    name: str
    effect: str
    text: str
    advice: str = ""
    kinds: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
