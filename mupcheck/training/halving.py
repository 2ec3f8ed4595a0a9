"""Successive halving: which replicas are given up because they lie far above the best of their lrs.

Off unless a sweep asks for it. A stopped run has no loss at the end, so it is never an optimum: judging takes it for
worse than whatever is near it. What it is compared with is what trains beside it, with the same table and seed.

The margins are from `sweeps/demo_lr.toml` (252 runs of 60 steps, AdamW, 2026-11-27): of the worse half of each table
and seed, 32 runs lay 0.3 nats or more above the best one at half of the steps, and ended 0.19 nats or more above it; at
a quarter 40 lay 0.5 nats above, one of which ended within 0.06, so that there the margin is wider.
"""

import math
from collections.abc import Sequence

import numpy as np

from mupcheck.spec.run import RunSpec

# share of the steps: nats above the best one beyond which one of the worse half is given up
AT_A_QUARTER, AT_HALF = 1.0, 0.3
MARGINS = {0.25: AT_A_QUARTER, 0.5: AT_HALF}
STOPPED = "stopped: "  # how the reason of such a run begins


def rungs(spec: RunSpec) -> dict[int, float]:
    """Return after which steps runs are compared, and by which margin in nats; none where `halving` is off."""
    if not spec.halving:
        return {}
    return {math.ceil(share * spec.steps): margin for share, margin in MARGINS.items() if share * spec.steps >= 1}


def give_up(
    runs: Sequence[RunSpec], losses: Sequence[Sequence[float]], reasons: Sequence[str | None], margin: float
) -> list[str | None]:
    """Return why each replica is given up, or was before; None where it goes on.

    Compared are runs of one table and seed, by the mean loss of the last tenth of the steps so far. Of those that are
    left the better half, rounded up, always goes on.

    Args:
        runs: of the group, [R].
        losses: of every step so far, [step, R].
        reasons: why a replica does not train any more, [R].
        margin: nats above the best one.
    """
    recent = np.mean(np.asarray(losses[-max(len(losses) // 10, 1) :]), axis=0)
    after = list(reasons)
    alike: dict[tuple[str, int], list[int]] = {}
    for replica, run in enumerate(runs):
        if reasons[replica] is None:
            alike.setdefault((run.parametrization, run.seed), []).append(replica)
    for replicas in alike.values():
        ranked = sorted(replicas, key=lambda replica: recent[replica])
        best = ranked[0]
        for replica in ranked[-(len(ranked) // 2) :] if len(ranked) > 1 else ():
            if (above := recent[replica] - recent[best]) > margin:
                lr = f"lr 2^{math.log2(runs[best].lr):.4g}"
                after[replica] = f"{STOPPED}{above:.2f} nats above {lr} after {len(losses)} steps"
    return after


def is_stopped(reason: str | None) -> bool:
    """Say whether a run was given up by halving, from why it does not train any more."""
    return reason is not None and reason.startswith(STOPPED)
