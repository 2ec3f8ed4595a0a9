"""What a sweep would train and cost."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mupcheck.terminal.console import console, duration_text, print_json, table_of

if TYPE_CHECKING:
    from mupcheck.sweep.plan import Estimate, Plan


def resolution_of(plan: "Plan") -> str:
    """Say what the widths and seeds of a coordinate check can resolve."""
    from mupcheck.coordinates.power import resolve

    sweep = plan.sweep
    found = resolve(sweep.widths, len(sweep.seeds), optimizer=sweep.optimizer)
    return str(found or "fewer than 3 widths or 2 seeds give no interval, and no verdict")


def print_plan(plan: "Plan", estimate: "Estimate", *, as_json: bool) -> None:
    """Print what a sweep would train and cost."""
    resolution = resolution_of(plan) if plan.sweep.kind == "coord" else None
    if as_json:
        sizes = {"runs": len(plan.runs), **asdict(estimate), "resolution": resolution}
        print_json({"sweep": plan.sweep.model_dump(mode="json"), **sizes})
        return
    out = console()
    table = table_of("width", "H", "K", "V", "parameters", "runs", "missing", "FLOPs a run", "bytes a group")
    for row in estimate.widths:
        table.add_row(
            *(str(row[key]) for key in ("width", "n_heads", "head_k_dim", "head_v_dim")),
            f"{row['n_params']:,}",
            *(str(row[key]) for key in ("runs", "missing")),
            f"{row['run_flops']:.2g}",
            f"{row['group_bytes']:.2g}",
        )
    out.print(f"sweep {plan.sweep.name} ({plan.sweep.kind}) into {plan.folder}, on {plan.device}", soft_wrap=True)
    if plan.sweep.question:
        out.print(plan.sweep.question, soft_wrap=True)
    out.print(table)
    out.print(
        f"{plan.missing} of {len(plan.runs)} runs to train in {len(plan.groups)} groups, {estimate.flops:.2g} FLOPs, "
        f"about {duration_text(estimate.seconds)} on {plan.device}; nothing was trained",
        soft_wrap=True,
    )
    if resolution:
        out.print(resolution, soft_wrap=True)
