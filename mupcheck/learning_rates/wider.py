"""Wider is better: at the same learning rate and seed the wider of two models has the lower loss, at every step.

Source: Yang et al., arXiv:2203.03466 (TP-V), section 8; theory.md section 6. Widths share their batches, so losses are
compared seed by seed and the noise of the data drops out. Runs may have been recorded, or kept, at unlike steps: those
that all of them have are compared. Steps are judged in tenths of the training, each by Student's t over the seeds; of
the tenths that are called worse (or better) at most 1 - confidence are expected to be so by chance (Benjamini and
Hochberg 1995, over all lrs, widths and tenths of one parametrization).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.learning_rates.lr_curve import Floats
from mupcheck.learning_rates.quantiles import false_discoveries, t_sf

TENTHS = 10
# (steps, losses at them), by (width, log2 lr) and seed
Losses = dict[tuple[int, float], dict[int, tuple[NDArray[np.int64], Floats] | None]]


@dataclass(frozen=True)
class Comparison:
    """Two neighbouring widths at one lr. Positive nats: the wider one is worse."""

    narrow: int
    wide: int
    log2_lr: float
    share: float | None  # of steps at which the wider one's mean loss is lower; step 0 is before any training
    nats: tuple[float, ...]  # loss of the wider less that of the narrower one, mean over seeds, by tenth of the steps
    better: tuple[bool, ...]  # beyond the noise, by tenth
    worse: tuple[bool, ...]
    reason: str  # why there is nothing to compare, else empty


@dataclass(frozen=True)
class WiderIsBetter:
    """All comparisons of one parametrization, and what they say: holds, violated or cannot tell."""

    verdict: str
    share: float | None  # mean of the comparisons'
    reason: str
    comparisons: tuple[Comparison, ...]  # by rising widths, then lr


def compare_widths(runs: pd.DataFrame, steps: pd.DataFrame | None, *, confidence: float) -> WiderIsBetter:
    """Compare each width with the next wider one at every lr that both have.

    `violated` if in some tenth of the training at some lr the wider model is worse beyond the noise, or if it diverges
    where the narrower one does not; `holds` if neither, and in most tenths it is better beyond the noise.

    Args:
        runs: runs of one parametrization.
        steps: the steps table; other runs in it are ignored. None or an empty one cannot tell.
        confidence: one less the share of false calls.
    """
    if steps is None or steps.empty:
        return WiderIsBetter("cannot tell", None, "the losses of the steps were not given; pass the steps table", ())
    losses = _losses(runs, steps)
    widths = sorted({int(width) for width in runs["width"]})
    if len(widths) < 2:
        return WiderIsBetter("cannot tell", None, "one width has none to be compared with; add widths", ())
    drafts, p_values = [], []
    for narrow, wide in pairwise(widths):
        lrs = [set(runs.loc[runs["width"] == width, "log2_lr"]) for width in (narrow, wide)]
        for log2_lr in sorted(lrs[0] & lrs[1]):
            draft, p_worse = _compare(losses, narrow, wide, float(log2_lr))
            drafts.append(draft)
            p_values.append(p_worse)
    # one family of tests, as every tenth of every comparison is looked at
    together = np.concatenate([np.array([]), *p_values])
    ends = np.cumsum([len(p) for p in p_values])[:-1]
    worse, better = (np.split(_discoveries(p, confidence), ends) for p in (together, 1 - together))
    return _judge(
        tuple(
            replace(draft, better=tuple(map(bool, is_better)), worse=tuple(map(bool, is_worse)))
            for draft, is_better, is_worse in zip(drafts, better, worse, strict=False)  # none has none
        )
    )


def _losses(runs: pd.DataFrame, steps: pd.DataFrame) -> Losses:
    """Losses after step 0; None for a run that diverged or has a loss that is not finite."""
    mine = steps[steps["run_id"].isin(runs["run_id"]) & (steps["step"] > 0)]
    once = mine.drop_duplicates(["run_id", "step"], keep="last").sort_values("step")
    by_run = {
        run_id: (rows["step"].to_numpy(dtype=np.int64), rows["loss"].to_numpy(dtype=float))
        for run_id, rows in once.groupby("run_id")
    }
    losses: Losses = {}
    for run in runs.itertuples():
        found = by_run.get(run.run_id)
        if run.status in ("failed", "stopped") or (run.status == "ok" and found is None):
            continue  # not there to be compared
        whole = run.status == "ok" and found is not None and bool(np.isfinite(found[1]).all())
        losses.setdefault((int(run.width), float(run.log2_lr)), {})[int(run.seed)] = found if whole else None
    return losses


def _compare(losses: Losses, narrow: int, wide: int, log2_lr: float) -> tuple[Comparison, Floats]:
    """Comparison before its tenths are judged, and for each tenth p of so high a mean were the wider one not worse."""
    of_narrow, of_wide = (losses.get((width, log2_lr), {}) for width in (narrow, wide))
    seeds = sorted(of_narrow.keys() & of_wide.keys())
    pairs = [(of_narrow[seed], of_wide[seed]) for seed in seeds]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not seeds or len(whole) < len(pairs):
        sides = zip((narrow, wide), zip(*pairs, strict=True), strict=bool(pairs))
        died = [str(width) for width, runs in sides if any(run is None for run in runs)]
        reason = f"width {' and '.join(died)} diverged" if died else "no steps of a seed they share"
        return Comparison(narrow, wide, log2_lr, None, (), (), (), reason), np.array([])
    shared = reduce(np.intersect1d, (steps for steps, _ in chain.from_iterable(whole)))
    if not len(shared):
        reason = "runs have no step in common"
        return Comparison(narrow, wide, log2_lr, None, (), (), (), reason), np.array([])
    kept = [[of[np.searchsorted(steps, shared)] for steps, of in pair] for pair in whole]
    gaps = np.stack([b - a for a, b in kept])  # [seed, step]
    tenths = [part.mean(axis=1) for part in np.array_split(gaps, min(TENTHS, len(shared)), axis=1)]  # [tenth][seed]
    share, nats = float(np.mean(gaps.mean(axis=0) < 0)), tuple(float(part.mean()) for part in tenths)
    return Comparison(narrow, wide, log2_lr, share, nats, (), (), ""), np.array([_p_worse(part) for part in tenths])


def _p_worse(gaps: Floats) -> float:
    """One-sided p of gaps [seed] whose mean is not above 0; 1/2 where one seed or equal losses say nothing."""
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    if error == 0:
        return 0.5
    return float(t_sf(gaps.mean() / error, len(gaps) - 1))


def _discoveries(p: Floats, confidence: float) -> NDArray[np.bool_]:
    return (false_discoveries(p) if len(p) else p) <= 1 - confidence


def _judge(comparisons: tuple[Comparison, ...]) -> WiderIsBetter:
    compared = [c for c in comparisons if c.share is not None]
    share = float(np.mean([c.share for c in compared if c.share is not None])) if compared else None
    died = [c for c in comparisons if c.reason == f"width {c.wide} diverged"]
    worse = [c for c in compared if any(c.worse)]
    if died or worse:
        said = [f"worse at {_places(worse)}"] if worse else []
        said += [f"diverging where the narrower one does not at {_places(died)}"] if died else []
        return WiderIsBetter("violated", share, "the wider model is " + ", and ".join(said), comparisons)
    if not compared:
        return WiderIsBetter("cannot tell", None, "no lr at which two widths finished; add lrs they share", comparisons)
    better, tenths = sum(sum(c.better) for c in compared), sum(len(c.better) for c in compared)
    parts = "tenths" if all(len(c.better) == TENTHS for c in compared) else "parts"  # of few steps there are fewer
    told = f"better beyond the noise in {better} of {tenths} {parts} of training, worse in none"
    if 2 * better > tenths:
        return WiderIsBetter("holds", share, told, comparisons)
    return WiderIsBetter("cannot tell", share, f"{told}; add seeds", comparisons)


def _places(comparisons: Sequence[Comparison]) -> str:
    """Name lrs by pair of widths: "64 against 32: 2^-6, 2^-5; 128 against 64: 2^-6"."""
    by_pair: dict[tuple[int, int], list[str]] = {}
    for c in comparisons:
        by_pair.setdefault((c.narrow, c.wide), []).append(f"2^{c.log2_lr:g}")
    return "; ".join(f"{wide} against {narrow}: {', '.join(lrs)}" for (narrow, wide), lrs in by_pair.items())
