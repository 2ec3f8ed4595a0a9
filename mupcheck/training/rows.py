"""What a training tells of each step."""

from dataclasses import dataclass, field

from mupcheck.measuring.probes import CoordRow
from mupcheck.spec.run import RunSpec


@dataclass(frozen=True)
class StepRow:
    """One step of every replica; lists are [R].

    `step` counts the updates taken before `loss` was; `clipped` and `val_loss` are about the update that followed.
    A diverged replica that a GPU no longer computes has NaN for numbers.
    """

    step: int
    loss: list[float]
    grad_norm: list[float]
    lr_scale: list[float]
    clipped: list[bool]
    diverged: list[str | None]
    val_loss: list[float] | None = None
    coords: list[CoordRow] = field(default_factory=list)


def evaluates(spec: RunSpec, step: int) -> bool:
    """Say whether the held-out loss is taken after the update of `step`."""
    if spec.eval_tokens == 0 or step >= spec.steps:
        return False
    return step == spec.steps - 1 or (spec.eval_every > 0 and (step + 1) % spec.eval_every == 0)
