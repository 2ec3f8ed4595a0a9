"""Faults of tables and of settings: exponents of every kind, and settings that make slopes worthless.

A wrong table is `gdn-mup` with a change, written as a user's rules file.
"""
# ruff: noqa: E501

from functools import partial

import numpy as np

from mupcheck.proof import edits
from mupcheck.proof.faults import BASE, Fault, Where
from mupcheck.theory.parametrization import TABLES, Role

# an exponent that is off by 1/2, of the noisiest gradients there are
_FINE = {"widths": [64, 128, 256, 512], "seeds": 16}


def _dropped_lrs(optimizer: str, mode: str) -> list[Fault]:
    """Return a fault for every lr exponent of the table: 0 instead of it."""
    faults = []
    for role in Role:
        lr = TABLES[BASE].rule(role, optimizer=optimizer, mode=mode).lr
        if lr:
            settings = _FINE if abs(lr) < 1 else {}
            change, named = ((role, "lr", 0.0),), f"{role}, lr ({optimizer})"
            faults.append(
                Fault(f"{role}: lr exponent dropped", optimizer, mode, rules=change, settings=settings, named=(named,))
            )
    return faults


def _wrong_inits(optimizer: str, mode: str) -> list[Fault]:
    """Return a fault for every init exponent: a constant std where it should fall, one that falls where it should not."""
    faults = []
    for role in Role:
        wrong = 0.0 if TABLES[BASE].rule(role, optimizer=optimizer, mode=mode).init else -0.5
        named = "gate scalars" if role is Role.GATE_SCALAR else f"{role}, init"
        faults.append(
            Fault(f"{role}: init exponent {wrong:g}", optimizer, mode, rules=((role, "init", wrong),), named=(named,))
        )
    return faults


# so small an init that o_norm's eps outweighs mean(o^2), as in the paper's released code (theory.md, section 5)
_SMALL_O = {"projection_std": 0.004, "conv_std": 0.6}

# fmt: off
TABLE_FAULTS: tuple[Fault, ...] = (
    *_dropped_lrs("adamw", "head-dim"),
    *_dropped_lrs("adamw", "heads"),
    *_dropped_lrs("sgd", "head-dim"),
    *_dropped_lrs("sgd", "heads"),
    *_wrong_inits("adamw", "head-dim"),
    *_wrong_inits("sgd", "heads"),
    Fault("short conv in the hidden lr group", "adamw", "heads", rules=((Role.SHORT_CONV, "lr", -1.0),), named=("short_conv, lr (adamw)",)),
    Fault("norm gains in the hidden lr group", "adamw", "head-dim", rules=((Role.NORM_GAIN, "lr", -1.0),), named=("norm_gain, lr (adamw)",)),
    Fault("o_norm's gain in the hidden lr group", "adamw", "heads", rules=((Role.HEAD_NORM_GAIN, "lr", -1.0),), named=("head_norm_gain, lr (adamw)",)),
    Fault("embedding in the hidden lr group", "adamw", "heads", rules=((Role.EMBEDDING, "lr", -1.0),), named=("embedding, lr (adamw)",)),
    Fault("logits multiplier missing", "adamw", "head-dim", multipliers={"logits": 0.0}, named=("multiplier logits",)),
    Fault("logits multiplier missing", "sgd", "heads", multipliers={"logits": 0.0}, named=("multiplier logits",)),
    Fault("logits multiplier doubled", "adamw", "heads", multipliers={"logits": -2.0}, named=("multiplier logits",)),
    Fault("logits multiplier doubled", "sgd", "head-dim", multipliers={"logits": -2.0}, named=("multiplier logits",)),
    Fault("o_proj's output carries 1/m", "adamw", "head-dim", multipliers={"mixer_out": -1.0}, named=("multiplier mixer_out",)),
    Fault("o_proj's output carries 1/m", "sgd", "heads", multipliers={"mixer_out": -1.0}, named=("multiplier mixer_out",)),
    Fault("o_proj's output carries m^1/2", "sgd", "head-dim", multipliers={"mixer_out": 0.5}, named=("multiplier mixer_out",)),
    Fault("o_raw multiplier missing, o below eps", "adamw", "head-dim", multipliers={"o_raw": 0.0}, settings=_SMALL_O, named=("o_norm eps",)),
    Fault("o_raw multiplier doubled: o_norm removes it", "adamw", "head-dim", multipliers={"o_raw": 1.0}, harmless=True),
    Fault("factor moved from init to multiplier and lr", "adamw", "heads", rules=tuple((Role.HIDDEN, name, by) for name, by in (("init", -1.5), ("multiplier", 1.0), ("lr", -2.0), ("eps", 0.0))), harmless=True),
    Fault("weight decay coupled to lr", "adamw", "head-dim", kind="settings", wrong={"weight_decay": 0.1}, named=("decay",)),
    Fault("weight decay coupled to lr", "sgd", "heads", kind="settings", wrong={"weight_decay": 0.1}, named=("decay",)),
    Fault("large eps, not scaled", "adamw", "heads", rules=tuple((role, "eps", 0.0) for role in Role), settings={"eps": 3e-4}, named=("adam eps",)),
    Fault("warm-up so long that nothing moves", "adamw", "head-dim", kind="settings", wrong={"warmup_steps": 100_000, "steps": 1_000_000}, named=("nothing trained",)),
    Fault("lr so small that nothing moves", "sgd", "head-dim", kind="settings", wrong={"lrs": [2.0**-20]}, named=("nothing trained",)),
    Fault("lr so large that all is saturated", "adamw", "heads", kind="settings", wrong={"lrs": [0.5]}, named=("saturated",)),
    Fault("clipping at every step", "sgd", "heads", kind="settings", wrong={"clip": 0.01}, named=("clipping",)),
    Fault("lr of hidden weights overwritten", "adamw", "heads", rules=((Role.HIDDEN, "lr", 0.0),), edit=edits.as_base, named=("realised",)),
    Fault("lr of gate scalars overwritten", "sgd", "heads", rules=((Role.GATE_SCALAR, "lr", 0.0),), edit=edits.as_base, named=("realised",)),
    Fault("width that does not reach the model", "adamw", "head-dim", kind="records", edit=partial(edits.copied_width, source=32, whole=True), where=Where(width=128), named=("width",)),
    Fault("width that does not reach the model", "sgd", "heads", kind="records", edit=partial(edits.copied_width, source=32, whole=True), where=Where(width=128), named=("width",)),
    Fault("other data at one width", "adamw", "heads", kind="records", edit=partial(edits.column_set, column="data_hash", value="0" * 16), where=Where(width=128), named=("data_hash",)),
    Fault("all seeds the same", "sgd", "head-dim", kind="records", edit=edits.copied_seeds, named=("copied seeds",)),
    Fault("a size that is not finite", "adamw", "head-dim", kind="records", edit=partial(edits.replaced, by=np.nan, kinds=("effective_update",), first=True), where=Where(("q_proj",)), named=("no number",)),
    Fault("a run is missing", "sgd", "heads", kind="records", edit=edits.run_dropped, named=("missing runs",)),
)
# fmt: on
