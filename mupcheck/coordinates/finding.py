"""What a reader of a verdict must know, and which verdicts it affects."""

from dataclasses import dataclass

LOST = ("missing runs", "diverged")  # findings of runs that were not there to be judged
EFFECTS = ("fail", "cannot tell", "no pass", "warning")


@dataclass(frozen=True)
class Finding:
    """One thing that a reader of the verdict must know.

    Attributes:
        name: of the check, such as "saturated" or "missing runs".
        effect: one of EFFECTS: "fail" (a setting that is wrong by itself), "cannot tell" (slopes of `kinds` and `sites`
            do not count), "no pass" (a failed slope still counts) or "warning" (nothing changes).
        text: what was seen, and where.
        advice: what to change.
        kinds, sites: the quantities in doubt; an empty tuple means all.
        later: whether those of step 0 are not.
        layers, widths, steps: where it was seen, most telling first; an empty tuple where that says nothing.
    """

    name: str
    effect: str
    text: str
    advice: str = ""
    kinds: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    later: bool = False
    layers: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Say what was seen and what to change, in one line."""
        return f"{self.text}; {self.advice}" if self.advice else self.text
