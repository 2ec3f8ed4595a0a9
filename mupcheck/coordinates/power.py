"""What a coordinate check can resolve, before it is run: the intervals of its slopes, and whether it will decide.

A check is decided where each of its judged slopes is. Some hundred of them are quiet; what keeps a check open are a few
that are noisy, or whose slope in narrow models lies off what it is in wide ones. SOURCES names them, with their scatter
and how it depends on the model: more layers average what each draws for itself and add to what all hand on, more heads
and more tokens average.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np

from mupcheck.coordinates.slopes import EFFECTIVE_SHARE, FAMILY_LEVEL, MIN_WIDTHS
from mupcheck.learning_rates.quantiles import chi2_ppf, normal_cdf, t_isf, t_ppf
from mupcheck.results.comparable import CONFIDENCE
from mupcheck.theory.required import CROSSING, TOLERANCES

TOLERANCE = max(TOLERANCES.values())
MOST_SEEDS = 256
N_EFFECTIVE = 21  # effective updates, among which half of the level is shared
POWER = 0.8
DECIDED = 0.95  # share of correct checks that should be


@dataclass(frozen=True)
class Source:
    """How much log2 of a size scatters between seeds, pooled over layers and steps, and how that changes.

    Attributes:
        scatter: of one seed's slope, times the root of the widths' spread: that of independent sizes which scatter so.
        layers, heads, tokens, m, base: exponents of its change with the layers (over 2), the heads of the narrowest
            model (over 4), the tokens of a step (over 16), the middle width over the base width (over 2^1.5) and the
            base width (over 32).
        off, wide: by how much its slope is off what is required at base widths 32 and 256.
        tolerance: of its slope.
    """

    scatter: float
    layers: float
    heads: float
    tokens: float
    m: float
    base: float
    off: float = 0.0
    wide: float = 0.0
    tolerance: float = TOLERANCE


# `gdn-mup`, torch 2.11, 2026-11-26. Two layers, 4 heads, 16 tokens, base width 32: 400 seeds on a CPU; each exponent
# from one setting changed (64 seeds on a CPU; a base width of 256: 96 seeds on an H200). First the median update.
# fmt: off
TYPICAL = {
    "adamw": Source(0.050, 0.0, 0.0, 0.0, -0.4, -0.4),
    "sgd": Source(0.240, 0.0, 0.0, 0.0, -0.25, -0.1),
}
_V_CONV = (0.29, 0.5, 0.2, -0.3, -0.2, -0.25)  # gradient at the values, at step 0
_Z_ALPHA = Source(0.41, -0.15, -0.4, -0.5, -0.35, -0.15, 0.08, 0.08)
SOURCES = {
    ("adamw", "head-dim"): {
        "dL/dv_conv": Source(*_V_CONV, -0.15, -0.17),
        "change of mixer_out": Source(0.43, -0.5, -0.1, -0.25, 0.0, -0.5, 0.06, -0.06),
    },
    ("adamw", "heads"): {
        "dL/dv_conv": Source(*_V_CONV, 0.05, 0.0),
        "dL/dz_alpha": _Z_ALPHA,
        "change of o_norm": Source(0.39, -0.5, 0.05, -0.2, -0.15, -0.5, 0.09, 0.04),
    },
    ("sgd", "head-dim"): {
        "dL/dv_conv": Source(*_V_CONV, -0.15, -0.17),
        "A_log": Source(0.59, -0.45, -0.35, -0.5, 0.0, -0.05, -0.02, -0.21),
        "a_proj": Source(0.45, -0.3, -0.2, -0.25, -0.15, -0.1, -0.09, -0.15),
        "b_proj": Source(0.28, -0.35, -0.25, -0.3, -0.2, -0.15, -0.15, -0.14),
        "k_proj": Source(0.49, -0.1, 0.0, -0.7, -0.1, 0.0, -0.24, -0.37, CROSSING),
        "k_conv1d": Source(0.51, -0.15, 0.0, -0.7, -0.1, 0.15, -0.17, -0.36, CROSSING),
        "embedding": Source(0.49, 0.7, 0.2, -0.8, -0.1, -0.1, -0.11, -0.16, CROSSING),
    },
    ("sgd", "heads"): {
        "dL/dv_conv": Source(*_V_CONV, 0.05, 0.0),
        "dL/dz_alpha": _Z_ALPHA,
        "A_log": Source(0.47, -0.45, -0.5, -0.3, -0.45, -0.05, 0.15, 0.10),
        "a_proj": Source(0.39, -0.25, -0.4, -0.45, -0.4, -0.1, 0.08, 0.05),
        "o_proj": Source(0.25, 0.0, 0.0, -0.35, -0.3, -0.1, -0.12, -0.16),
        "k_conv1d": Source(0.58, 0.0, 0.25, -0.45, -0.15, 0.0, 0.13, 0.16, CROSSING),
        "embedding": Source(0.57, 0.75, 0.25, -0.55, -0.05, -0.15, 0.07, 0.03, CROSSING),
    },
}
# fmt: on


@dataclass(frozen=True)
class Resolution:
    """Half-widths of the intervals that a plan leads to expect, and what follows.

    Attributes:
        typical, noisiest: of the effective update of median scatter, and of the noisiest slope.
        smallest_fault: distance from what is required at which a typical effective update fails in four of five checks,
            among all that are judged (Holm).
        undecided: share of correct checks that end in "cannot tell".
        last: the slope that is the last to be decided.
        seeds: with which DECIDED of correct checks are; None if no number will do.
    """

    typical: float
    noisiest: float
    smallest_fault: float
    undecided: float
    last: str
    seeds: int | None

    def __str__(self) -> str:
        """Say it in one line, before a run."""
        text = f"expected intervals: +-{self.typical:.2f} of a typical effective update, "
        text += f"+-{self.noisiest:.2f} of the noisiest slope; "
        text += f"an update that is off by {self.smallest_fault:.2f} fails in 4 of 5 checks; "
        text += f"of correct checks {self.undecided:.0%} end undecided, mostly for {self.last}"
        if self.undecided <= 1 - DECIDED:
            return text
        wanted = "more widths" if self.seeds is None else f"about {self.seeds} seeds"
        return f"{text}: {wanted} would decide {DECIDED:.0%}"


def resolve(
    widths: Sequence[int],
    n_seeds: int,
    *,
    optimizer: str,
    mode: str = "head-dim",
    n_layers: int = 2,
    n_heads: int = 4,
    tokens: int = 16,
    base_width: int | None = None,
    confidence: float = CONFIDENCE,
) -> Resolution | None:
    """Return what a plan can resolve; None where it gives no interval at all (one seed, fewer than 3 widths).

    Args:
        widths: of the sweep.
        n_seeds: seeds at each width.
        optimizer: "adamw" or "sgd".
        mode: "head-dim" or "heads".
        n_layers, n_heads, tokens: blocks, heads at the base width, and tokens of a step.
        base_width: default the smallest width.
        confidence: of the intervals.
    """
    if len(set(widths)) < MIN_WIDTHS or n_seeds < 2:
        return None
    x = np.log2(sorted(set(widths)))
    spread = float(((x - x.mean()) ** 2).sum())
    base = log2(base_width or min(widths))
    model = (log2(n_layers / 2), log2(n_heads / 4), log2(tokens / 16), x.mean() - base - 1.5, base - 5)

    def scatter(of: Source) -> float:
        powers = (of.layers, of.heads, of.tokens, of.m, of.base)
        return of.scatter * float(2 ** sum(by * log for by, log in zip(powers, model, strict=True))) / sqrt(spread)

    sources = SOURCES[optimizer, mode]
    wide = min(max(model[-1] / 3, 0.0), 1.0)
    known = [(scatter(of), of.off + (of.wide - of.off) * wide, of.tolerance) for of in sources.values()]
    typical = scatter(TYPICAL[optimizer])
    alone = float(t_ppf((1 + confidence) / 2, n_seeds - 1)) / sqrt(n_seeds)
    among_all = t_isf(FAMILY_LEVEL * EFFECTIVE_SHARE / N_EFFECTIVE, n_seeds - 1)
    smallest = TOLERANCE + typical * float(among_all + t_ppf(POWER, n_seeds - 1)) / sqrt(n_seeds)
    passes = [chance_of_pass(*one, n_seeds=n_seeds, confidence=confidence) for one in known]

    def decided(n: int) -> bool:
        chances = [chance_of_pass(*one, n_seeds=n, confidence=confidence) for one in known]
        return float(np.prod(chances)) >= DECIDED

    return Resolution(
        typical=alone * typical,
        noisiest=alone * max(of[0] for of in known),
        smallest_fault=smallest,
        undecided=1 - float(np.prod(passes)),
        last=list(sources)[int(np.argmin(passes))],
        seeds=next((n for n in range(2, MOST_SEEDS + 1) if decided(n)), None),
    )


def chance_of_pass(scatter: float, off: float, tolerance: float, *, n_seeds: int, confidence: float) -> float:
    """Return the chance that a slope's interval lies within what is required.

    Args:
        scatter: of the slope between seeds.
        off: its distance from what is required.
        tolerance: of it.
        n_seeds: over which the mean is taken.
        confidence: of the interval.
    """
    if scatter == 0:
        return float(abs(off) < tolerance)
    stderr = scatter / sqrt(n_seeds)
    half = float(t_ppf((1 + confidence) / 2, n_seeds - 1)) * stderr
    # the interval's length is drawn too
    drawn = np.sqrt(chi2_ppf((np.arange(64) + 0.5) / 64, n_seeds - 1) / (n_seeds - 1))
    room = np.maximum(tolerance - half * drawn, 0)
    inside = normal_cdf((room - off) / stderr) - normal_cdf((-room - off) / stderr)
    return float(inside.mean())
