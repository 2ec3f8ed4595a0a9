"""The runs of a sweep once more in another dtype, to see what that moves."""

from typing import Any

from mupcheck.spec.sweep import SweepSpec
from mupcheck.sweep.limits import NO_LIMITS, Limits
from mupcheck.sweep.plan import Plan, plan_sweep

FOLDER = "precision"  # in the sweep's own, so that it is no sweep beside it


def other_dtype(dtype: str) -> str:
    """Return the dtype to compare with: float32 with what is not, and bfloat16 with float32."""
    return "bfloat16" if dtype == "float32" else "float32"


def counterpart(plan: Plan, *, fresh: bool = False, here: bool = True, limits: Limits = NO_LIMITS) -> Plan:
    """Return the plan of the same runs in the other dtype, of the smallest width of a learning-rate sweep.

    Its runs go into the folder `precision` in the sweep's own. A coordinate check is compared at all its widths, as one
    has no slope.

    Args:
        plan: of the sweep.
        fresh, here, limits: as in `plan_sweep`.
    Raises:
        ValueError: as `plan_sweep` does.
    """
    sweep = plan.sweep
    changes = {
        "name": FOLDER,
        "dtype": other_dtype(sweep.dtype),
        "widths": (min(sweep.widths),) if sweep.kind == "lr" else sweep.widths,
        "base_width": sweep.base_width or min(sweep.widths),
        "refine": False,
        "top_up": False,
        "expect": {},
    }
    fields = {name: getattr(sweep, name) for name in SweepSpec.model_fields} | changes
    devices = plan.gpus or ("cpu",)
    how: dict[str, Any] = {"fresh": fresh, "jobs": plan.jobs, "exact": plan.exact, "gpus_per_run": plan.gpus_per_run}
    how |= {"limits": limits, "here": here}
    return plan_sweep(SweepSpec(**fields), out=plan.address or plan.folder, device=devices, **how)
