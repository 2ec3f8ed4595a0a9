"""What a sweep would train and cost."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mupcheck.sweep.machine import GIB, cores, size_text
from mupcheck.terminal.console import console, duration_text, print_json, table_of

if TYPE_CHECKING:
    from mupcheck.sweep.estimate import Estimate
    from mupcheck.sweep.plan import Plan


def resolution_of(plan: "Plan") -> str:
    """Say what the widths and seeds of a coordinate check can resolve."""
    from mupcheck.coordinates.power import resolve

    sweep = plan.sweep
    model = {name: getattr(sweep, name) for name in ("optimizer", "mode", "n_layers", "n_heads", "base_width")}
    found = resolve(sweep.widths, len(sweep.seeds), tokens=sweep.batch_size * sweep.seq_len, **model)
    return str(found or "fewer than 3 widths or 2 seeds give no interval, and no verdict")


def print_plan(plan: "Plan", estimate: "Estimate", *, as_json: bool) -> None:
    """Print what a sweep would train and cost."""
    resolution = resolution_of(plan) if plan.sweep.kind == "coord" else None
    if as_json:
        sizes = {"runs": len(plan.runs), **asdict(estimate), "resolution": resolution}
        sizes |= {"backend": plan.computes, "devices": list(plan.gpus) or [plan.device], "exact": plan.exact}
        print_json({"sweep": plan.sweep.model_dump(mode="json"), **sizes})
        return
    out = console()
    table = table_of("width", "H", "K", "V", "parameters", "runs", "missing", "FLOPs/run", "GiB/group")
    for column in table.columns:
        column.justify = "right"
    for row in estimate.widths:
        table.add_row(
            *(str(row[key]) for key in ("width", "n_heads", "head_k_dim", "head_v_dim")),
            count_text(row["n_params"]),
            *(str(row[key]) for key in ("runs", "missing")),
            f"{row['run_flops']:.2g}",
            f"{row['group_bytes'] / GIB:.2f}" if row["group_bytes"] < 100 * GIB else f"{row['group_bytes'] / GIB:.3g}",
        )
    how = f"{plan.sweep.dtype}, {plan.computes} backend"
    how += ", each run alone" if plan.exact else ""
    how += f", {plan.gpus_per_run} {'GPUs' if plan.gpus else 'processes'} a run" if plan.gpus_per_run > 1 else ""
    into = f"sweep {plan.sweep.name} ({plan.sweep.kind}) into {plan.folder}"
    out.print(f"{into}, on {plan.where}, {how}", soft_wrap=True)
    if plan.sweep.question:
        out.print(plan.sweep.question, soft_wrap=True)
    out.print(table)
    out.print(memory_text(plan, estimate), soft_wrap=True)
    time = f"about {duration_text(estimate.seconds)}" if estimate.fits else "no estimate of time"
    if estimate.fits and plan.missing and not estimate.timed_widths:
        why = f": {estimate.not_timed[0]}" if estimate.not_timed else ""
        time += f" (a guess, as no step could be timed{why})"
    out.print(
        f"{plan.missing} of {len(plan.runs)} runs to train in {len(plan.groups)} groups, {estimate.flops:.2g} FLOPs, "
        f"{time} on {plan.where}; nothing was trained",
        soft_wrap=True,
    )
    if resolution:
        out.print(resolution, soft_wrap=True)


def memory_text(plan: "Plan", estimate: "Estimate") -> str:
    """Say what is needed at once, of what there is on which machine."""
    processes = "1 process at a time needs" if estimate.jobs == 1 else f"{estimate.jobs} processes at a time need"
    if plan.gpus_per_run > 1:
        runs = "1 run" if estimate.jobs == 1 else f"{estimate.jobs} runs"
        processes = f"{runs} of {plan.gpus_per_run} processes at a time need{'s' * (estimate.jobs == 1)}"
    where = f"this machine ({cores()} cores)" if plan.device == "cpu" else plan.device
    if len(plan.gpus) > 1:
        where, processes = "the GPU that has least", f"each of {len(plan.gpus)} GPUs needs"
    free = "an unknown amount" if estimate.available_bytes is None else size_text(estimate.available_bytes)
    fits = "" if estimate.fits else "does not fit: "
    return f"{fits}{processes} {size_text(estimate.needed_bytes)} of {free} free on {where}"


def count_text(n: int) -> str:
    """Write a number whole up to a billion, as a power of ten beyond."""
    return f"{n:,}" if n < 10**9 else f"{n:.3g}"
