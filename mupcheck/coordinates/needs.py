"""What is required of each quantity of a group: by the table of theory, or by what others say of what they measured.

Of sizes of whatever model an effective update is required at 0 of every parameter (theory.md, section 4: its slope is
the error of the lr's exponent). Embedding, residual stream, block outputs, last norm and logits have the same required
slope under every optimizer and way to widen, and are known by their names. Where a table says which optimizer, mode and
tying it is of, and sites have the names of mupcheck's own, what is required is what is required of ours. Of the rest
nothing is, unless the user says so.
"""

from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import pandas as pd

from mupcheck.theory.parametrization import MODES, OPTIMIZERS
from mupcheck.theory.required import TOLERANCES, ZERO, Required, required

# the sites of ours that other models have too, under these names
SHARED_SITES = ("embedding", "residual", "mixer_out", "mlp_out", "final_norm", "logits")
EFFECTIVE = "effective_update"


def needs_of_trained(
    quantities: Sequence[tuple[Any, ...]], run: pd.Series, fixed: Container[str]
) -> list[Required | None]:
    """Return what is required of each quantity (kind, stat, site, layer, step) of a group that mupcheck measured.

    Args:
        run: any of its runs.
        fixed: sites of parameters that are as large at every width.
    """
    setting: dict[str, Any] = {"optimizer": run["optimizer"], "mode": run["mode"], "tied": bool(run["tied"])}
    setting["decay"] = bool(run["weight_decay"] > 0)
    return [
        required(kind, stat, site, step=step, fixed=site in fixed, **setting)
        for kind, stat, site, _, step in quantities
    ]


def needs_of_any(
    quantities: Sequence[tuple[Any, ...]], run: pd.Series, named: Mapping[str, Sequence[float]]
) -> list[Required | None]:
    """Return what is required of each quantity (kind, stat, site, layer, step) of a group that others measured.

    Args:
        run: any of its runs; optimizer, mode and tied count where they are known.
        named: lowest and highest slope by pattern of a site's name, the last that fits counts.
    """
    return [_need(kind, stat, site, step, run, named) for kind, stat, site, _, step in quantities]


def _need(
    kind: str, stat: str, site: str, step: int, run: pd.Series, named: Mapping[str, Sequence[float]]
) -> Required | None:
    fitting = [ends for pattern, ends in named.items() if fnmatchcase(site, pattern)]
    if fitting and kind != "diagnostic":
        low, high = fitting[-1]
        return Required(float(low), float(high), TOLERANCES.get(kind, max(TOLERANCES.values())), "required by its user")
    if (known := _as_ours(kind, stat, site, step, run)) is not None:
        return known
    if kind == EFFECTIVE and step > 0:
        return Required(*ZERO, TOLERANCES[EFFECTIVE], "order one: the lr exponent is right")
    return None


def _as_ours(kind: str, stat: str, site: str, step: int, run: pd.Series) -> Required | None:
    """Return what is required of a site of ours: in the setting of the runs, or in all that they may be of."""
    known = run["optimizer"] in OPTIMIZERS and run["mode"] in MODES
    if not known and not (kind == "activation" and site in SHARED_SITES):
        return None
    optimizers = [run["optimizer"]] if run["optimizer"] in OPTIMIZERS else OPTIMIZERS
    modes = [run["mode"]] if run["mode"] in MODES else MODES
    tied = (False, True) if pd.isna(run["tied"]) else (bool(run["tied"]),)
    decay = bool(run["weight_decay"] > 0)
    stat = stat if stat in ("rms", "mean_abs", "spectral") else "rms"
    found = {
        required(kind, stat, site, optimizer=optimizer, mode=mode, tied=each, step=step, decay=decay)
        for optimizer, mode, each in product(optimizers, modes, tied)
    }
    if None in found:
        return None
    needs = [need for need in found if need is not None]
    low, high = min(need.low for need in needs), max(need.high for need in needs)
    widest = max(needs, key=lambda need: need.tolerance)
    return Required(low, high, widest.tolerance, widest.source)
