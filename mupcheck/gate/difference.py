"""Two results side by side: what moved from A to B, group by group, and in what they were measured differently."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mupcheck.coordinates.judge import Judgement
from mupcheck.gate.check import answers_of, kind_of
from mupcheck.gate.measured import Measured, Setting, compare_measured, say_measured
from mupcheck.gate.moves import CANNOT_TELL, MOVED, ONLY_A, ONLY_B, OPTIMUM, SAME, Move, lr_moves, slope_moves, turned
from mupcheck.gate.pairs import Answer, pair
from mupcheck.learning_rates.drift import Transfer
from mupcheck.results.comparable import Group, group_of, title_of
from mupcheck.results.printing import counted, in_html, lines_of
from mupcheck.results.reading import TO_COMPLETE, Results, load_results, say_incomplete

WORST_FIRST = (MOVED, CANNOT_TELL, SAME)


@dataclass(frozen=True)
class Pair:
    """One group in A and in B.

    Attributes:
        kind: coord or lr.
        a, b: (sweep, parametrization, optimizer, mode) of either.
        title: "gdn-mup (adamw, head-dim)"; of two tables "sp -> gdn-mup (adamw, head-dim)".
        was, now: the verdict in A and in B.
        cost_was, cost_now: the verdict on the cost; "" of a coordinate check.
        measured: in what it was measured differently.
        moves: every quantity, those with another verdict first, then those that moved, the farthest first.
    """

    kind: str
    a: Group
    b: Group
    title: str
    was: str
    now: str
    cost_was: str
    cost_now: str
    measured: Measured
    moves: tuple[Move, ...]

    @property
    def outcome(self) -> str:
        """Return moved, same or cannot tell; a verdict that is the opposite one has moved."""
        if any(each.moved for each in self.moves) or turned(self.was, self.now) or turned(self.cost_was, self.cost_now):
            return MOVED
        told = [each.verdict for each in self.compared]
        return SAME if told and CANNOT_TELL not in told else CANNOT_TELL

    @property
    def compared(self) -> list[Move]:
        """Return what both sides have."""
        return [each for each in self.moves if _is_in_both(each)]

    @property
    def is_verdict_new(self) -> bool:
        """Say whether either verdict is another, if only that it cannot be told."""
        return (self.was, self.cost_was) != (self.now, self.cost_now)

    @property
    def worth(self) -> list[Move]:
        """Return what a reader should see first: what moved, or has another verdict."""
        return [each for each in self.moves if each.moved or (each.was != each.now and _is_in_both(each))]

    @property
    def counted(self) -> str:
        """Say how many quantities are what: "2 moved, 110 same, 1 cannot tell, 3 only in B"."""
        counts = Counter(MOVED if each.moved else each.verdict for each in self.moves)
        return ", ".join(f"{counts[name]} {name}" for name in (*WORST_FIRST, ONLY_A, ONLY_B) if counts[name])

    @property
    def headline(self) -> str:
        """Say the group in one line: "gdn-mup (adamw, head-dim): 2 of 113 slopes moved; verdict pass -> fail"."""
        what = _what_moved(self)
        verdicts = [_verdict_text("verdict", self.was, self.now)]
        if self.cost_was or self.cost_now:
            verdicts.append(_verdict_text("cost", self.cost_was, self.cost_now))
        return f"{self.title}: {what}; {'; '.join(verdicts)}"


@dataclass(frozen=True, repr=False)
class Difference:
    """What `diff` found; `print` prints it.

    Attributes:
        a, b: what A and B are, as they were given.
        pairs: groups that both have, those with another verdict first, then what moved most.
        only_a, only_b: titles of groups that one of them has.
        missing: of what sweep of which of them runs are missing, a line each.
    """

    a: str
    b: str
    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """Return moved if anything did, else cannot tell if anything is unknown or nothing is in both, else same."""
        outcomes = {each.outcome for each in self.pairs} or {CANNOT_TELL}
        return next(name for name in WORST_FIRST if name in outcomes)

    @property
    def lines(self) -> list[str]:
        """Return what stands above the groups: in what all were measured differently, and what is not in both."""
        lines = [f"only in A: {name}" for name in self.only_a] + [f"only in B: {name}" for name in self.only_b]
        return [*say_measured(*self._common()), *self.missing, *lines]

    def lines_of(self, group: Pair) -> list[str]:
        """Return what stands below one group: in what it alone was measured differently, and what is not compared."""
        common = self._common()
        own = [
            [each for each in found if each not in of_all]
            for found, of_all in zip((group.measured.settings, group.measured.code), common, strict=True)
        ]
        return [*say_measured(*own), *group.measured.why]

    def _common(self) -> tuple[list[Setting], list[Setting]]:
        """Return the settings, and the code, that differ alike in all groups."""
        every = [each.measured for each in self.pairs]
        if not every:
            return [], []
        settings = [each for each in every[0].settings if all(each in other.settings for other in every)]
        return settings, [each for each in every[0].code if all(each in other.code for other in every)]

    def __str__(self) -> str:
        lines = list(self.lines)
        for each in self.pairs:
            lines += [each.headline, *self.lines_of(each)]
        return lines_of(f"{self.a} -> {self.b}: {self.outcome}", [("", line) for line in lines])

    def __repr__(self) -> str:
        return f"<Difference of {self.a} and {self.b}: {self.outcome}; {len(self.pairs)} groups in both>"

    def _repr_html_(self) -> str:
        return in_html(self)


def diff(a: str | Path | Results, b: str | Path | Results, *, names: tuple[str, str] | None = None) -> Difference:
    """Compare two results: which slopes, best lrs, drifts and costs moved beyond their intervals.

    `print(diff("results/old", "results/new"))` prints a line for each group.

    Args:
        a, b: a results folder, one sweep's folder in it, the address of either in a store, or what `load_results`
            returned.
        names: of A and B, as they are said (default: the paths, "A" and "B" of results).
    Raises:
        ValueError: as `load_results`; if nothing can be judged; or if one side has several sweeps of one table,
            optimizer and mode, and the other none of these names.
        StoreError: if an address does not answer.
    """
    if names is None:
        names = "A" if isinstance(a, Results) else str(a), "B" if isinstance(b, Results) else str(b)
    of_a, of_b = (each if isinstance(each, Results) else load_results(each) for each in (a, b))
    found = pair(answers_of(of_a), answers_of(of_b), names=names)
    pairs = sorted((_compare(*two, of_a, of_b) for two in found.both), key=_order)
    only_a, only_b = (tuple(map(_titled, each)) for each in (found.only_a, found.only_b))
    missing = [
        f"{side}: {line.partition(TO_COMPLETE)[0]}"
        for side, of in (("A", of_a), ("B", of_b))
        for sweep in of.sweeps
        if (line := say_incomplete(of, sweep))
    ]
    return Difference(names[0], names[1], tuple(pairs), only_a, only_b, tuple(missing))


def _compare(a: Answer, b: Answer, of_a: Results, of_b: Results) -> Pair:
    measured = compare_measured(a, b, of_a, of_b)
    costs = "", ""
    if isinstance(a, Judgement) and isinstance(b, Judgement):
        moves = slope_moves(a, b, shared=measured.shared)
    elif isinstance(a, Transfer) and isinstance(b, Transfer):
        moves = lr_moves(a, b, shared=measured.shared, without=measured.without)
        costs = (a.cost.verdict, b.cost.verdict) if min(len(a.optima), len(b.optima)) > 1 else costs
    else:
        raise TypeError(f"{title_of(a)} and {title_of(b)} are of two kinds")  # which `pair` does not make
    title = title_of(b) if title_of(a) == title_of(b) else f"{title_of(a).partition(' (')[0]} -> {title_of(b)}"
    return Pair(
        kind=kind_of(a), a=group_of(a), b=group_of(b), title=title, was=a.verdict, now=b.verdict,
        cost_was=costs[0], cost_now=costs[1], measured=measured,
        moves=tuple(sorted(moves, key=_first)),
    )  # fmt: skip


def _is_in_both(move: Move) -> bool:
    return move.verdict not in (ONLY_A, ONLY_B)


def _first(move: Move) -> tuple[bool, bool, bool, float]:
    far = abs(move.difference.value)
    return not move.turned, not move.moved, move.was == move.now, -far if far == far else 0.0


def _order(each: Pair) -> tuple[bool, int]:
    return not each.is_verdict_new, WORST_FIRST.index(each.outcome)


def _titled(answer: Answer) -> str:
    kind = "coordinate check" if kind_of(answer) == "coord" else "learning-rate sweep"
    return f"{title_of(answer)} of {kind} {answer.sweep}"


def _verdict_text(name: str, was: str, now: str) -> str:
    return f"{name} {now} in both" if was == now else f"{name} {was} -> {now}"


def _what_moved(pair: Pair) -> str:
    """Say how much of a group moved: "2 of 113 slopes moved", "best lr at 1 of 3 widths, drift moved"."""
    compared = pair.compared
    if not compared:
        return "nothing to compare"
    moved = [each for each in compared if each.moved]
    if pair.kind == "coord":
        what = f"{len(moved) or 'none'} of {len(compared)} slopes moved"
    else:
        n_widths = sum(each.what == OPTIMUM for each in compared)
        n_moved = sum(each.what == OPTIMUM for each in moved)
        parts = [f"best lr at {n_moved} of {counted(n_widths, 'width')}"] if n_moved else []
        parts += [each.what for each in moved if each.what != OPTIMUM]
        names = [f"best lrs of {counted(n_widths, 'width')}"] if n_widths else []
        names += [each.what for each in compared if each.what != OPTIMUM]
        what = f"{', '.join(parts)} moved" if parts else f"nothing moved of {', '.join(names)}"
    unknown = sum(each.verdict == CANNOT_TELL and not each.moved for each in compared)
    return what + (f", {unknown} cannot tell" if unknown else "")
