"""mupcheck: does the learning rate found on a small Gated DeltaNet model hold on a large one?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mupcheck.model import build_model
    from mupcheck.ops import gated_delta_rule
    from mupcheck.parametrization import find_table, rules
    from mupcheck.runner import run_sweep
    from mupcheck.slopes import fit_slopes
    from mupcheck.spec import ModelSpec, RunSpec, SweepSpec, load_sweep, make_sweep
    from mupcheck.store import load_results
    from mupcheck.transfer import find_optima, fit_drift, transfer

# Nothing is imported until it is asked for: the judging half needs no torch, the measuring half no pandas.
_HOMES = {
    **dict.fromkeys(("ModelSpec", "RunSpec", "SweepSpec", "load_sweep", "make_sweep"), "spec"),
    **dict.fromkeys(("find_table", "rules"), "parametrization"),
    **dict.fromkeys(("find_optima", "fit_drift", "transfer"), "transfer"),
    "build_model": "model",
    "gated_delta_rule": "ops",
    "run_sweep": "runner",
    "fit_slopes": "slopes",
    "load_results": "store",
}
__all__ = [
    "ModelSpec",
    "RunSpec",
    "SweepSpec",
    "build_model",
    "find_optima",
    "find_table",
    "fit_drift",
    "fit_slopes",
    "gated_delta_rule",
    "load_results",
    "load_sweep",
    "make_sweep",
    "rules",
    "run_sweep",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mupcheck' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"mupcheck.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
