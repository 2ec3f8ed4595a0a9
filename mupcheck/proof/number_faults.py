"""Faults of stored numbers, each planted in results that were right."""
# ruff: noqa: E501

from collections.abc import Mapping
from functools import partial as _in
from typing import Any

import numpy as np

from mupcheck.proof import edits
from mupcheck.proof.code_faults import AD, AH, MOVES, OUT, SD, SH, Q, V
from mupcheck.proof.edits import Edit
from mupcheck.proof.faults import EVERYWHERE, Fault, Where


def numbers(
    kind: str,
    name: str,
    setting: tuple[str, str],
    edit: Edit,
    at: Where = EVERYWHERE,
    *,
    named: tuple[str, ...] = (),
    unseen: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Fault:
    """Return a fault of stored numbers."""
    return Fault(name, *setting, kind, at, named, edit=edit, settings=settings or {}, unseen=unseen)


# fmt: off
STEPS = ("applied", "no step", "loss", "initial size")
_CURVED = {"widths": [32, 64, 128, 256]}
_WIDTH = (
    numbers("widths", "a width is a copy of another", AD, _in(edits.copied_width, source=32), Where(width=64)),
    numbers("widths", "a width is a copy of another", SH, _in(edits.copied_width, source=64), Where(width=128)),
    numbers("widths", "v_proj of a width is a copy of another's", AH, _in(edits.copied_width, source=32), Where((V,), width=64)),
    numbers("widths", "every size x2 at the middle width", AD, _in(edits.scaled, factor=2), Where(width=64)),
    numbers("widths", "every size x1000 at the middle width", SD, _in(edits.scaled, factor=1000), Where(width=64)),
    numbers("widths", "every size halved at the largest width", AH, _in(edits.scaled, factor=0.5), Where(width=128)),
    numbers("widths", "o_proj x2 at the middle width", AD, _in(edits.scaled, factor=2), Where((OUT,), width=64)),
    numbers("widths", "mlp_out x3 at the middle width", SH, _in(edits.scaled, factor=3), Where(("mlp_out",), width=64)),
    numbers("widths", "later sizes x2 at the middle width", AH, _in(edits.scaled, factor=2, kinds=MOVES), Where(width=64)),
    numbers("widths", "every size x4 at one of four widths", AD, _in(edits.scaled, factor=4), Where(width=128), settings=_CURVED),
    numbers("widths", "updates x2 at one of four widths", SD, _in(edits.scaled, factor=2, kinds=MOVES), Where(width=64), settings=_CURVED),
    numbers("widths", "updates curve upwards", AD, _in(edits.curved, share=0.02, kinds=("activation_update", "effective_update")), settings=_CURVED, named=("curved",)),
    numbers("widths", "two widths exchanged", SD, _in(edits.exchanged_widths, other=128), Where(width=32)),
    numbers("widths", "another lr is said than was trained", AD, _in(edits.column_set, column="lr", value=2.0**-11), named=("applied",)),
)
_RECORDS = (
    numbers("records", "three runs are missing", AD, _in(edits.run_dropped, n_runs=3), named=("missing runs",)),
    numbers("records", "NaN in an unjudged size", AD, _in(edits.replaced, by=np.nan, kinds=("activation",), first=True), Where(("state",), step=3)),
    numbers("records", "infinity in a spectral norm", SH, _in(edits.replaced, by=np.inf, kinds=("weight_grad",), first=True), Where(("readout",), step=3)),
    numbers("records", "a site is all zero", AH, _in(edits.replaced, by=0.0), Where(("gate",), width=128)),
    numbers("records", "two seeds are the same", SD, _in(edits.copied_seeds, n_alike=2), named=("copied seeds",)),
    numbers("records", "steps 1 and 3 exchanged", AD, _in(edits.exchanged, column="step", a=1, b=3), named=STEPS),
    numbers("records", "steps 0 and 1 exchanged", SH, _in(edits.exchanged, column="step", a=0, b=1), named=STEPS),
    numbers("records", "weights and gradients exchanged", AH, _in(edits.exchanged, column="kind", a="weight", b="weight_grad"), named=("initial size", "not followed", "not as implied")),
    numbers("records", "q_proj and o_proj exchanged", SD, _in(edits.exchanged, column="site", a=Q, b=OUT), Where((Q, OUT))),
    numbers("records", "squares of initial weights", AD, _in(edits.raised, power=2, kinds=("weight",)), named=("initial size",)),
    numbers("records", "sizes rounded to two decimals", AD, _in(edits.to_decimals, digits=2), named=("rounded", "applied", "never moves", "nothing trained")),
    numbers("records", "one seed x10", SH, _in(edits.scaled, factor=10, seeds=1), named=("initial size", "norm size", "applied")),
    numbers("records", "rows twice with other values", AD, edits.doubled, Where((OUT,))),
    numbers("records", "effective updates of a width are missing", AH, _in(edits.dropped, kinds=("effective_update",)), Where(width=64)),
    numbers("records", "batch size of a width is another", SD, _in(edits.column_set, column="batch_size", value=2), Where(width=128), named=("batch_size",)),
    numbers("records", "loss rises", AD, _in(edits.loss_edited, edit=edits.rising), named=("loss",)),
    numbers("records", "loss rises at the middle width", SH, _in(edits.loss_edited, edit=edits.rising), Where(width=64), named=("loss",)),
    numbers("records", "loss stands still", AH, _in(edits.loss_edited, edit=edits.standing), named=("loss",)),
    numbers("records", "a loss is no number", SD, _in(edits.loss_edited, edit=edits.not_a_number), Where(width=128), named=("loss", "no number")),
    numbers("records", "two seeds exchanged", AD, edits.exchanged_seeds, unseen="the same numbers under other names"),
    numbers("records", "two layers exchanged", SH, _in(edits.exchanged, column="layer", a=0, b=1), unseen="layers of one model are of the same size"),
    numbers("records", "losses in bits", AD, _in(edits.loss_edited, edit=edits.in_bits), unseen="they fall all the same"),
)
_ORDER = tuple(Fault("rows in another order", *setting, "harmless", edit=edits.shuffled, harmless=True) for setting in (AD, SH))
# fmt: on
NUMBER_FAULTS: tuple[Fault, ...] = (*_WIDTH, *_RECORDS, *_ORDER)
