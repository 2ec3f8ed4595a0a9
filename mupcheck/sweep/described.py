"""What `sweep.json` says of a plan, and the folder's tables made those of that plan."""

from contextlib import suppress
from typing import Any

from mupcheck.results.aside import bring_back, set_aside
from mupcheck.results.reading import read_sweep
from mupcheck.results.writing import write_sweep
from mupcheck.sweep.failures import failed_before
from mupcheck.sweep.path import kept_paths
from mupcheck.sweep.plan import Plan
from mupcheck.sweep.provenance import provenance
from mupcheck.theory.parametrization import table_to_json


def write_plan(plan: Plan) -> None:
    """Write what a sweep is, and let its folder's tables be of it: runs of another spec are set aside, its own back.

    Raises:
        StoreError: if that cannot be written.
    """
    before: dict[str, Any] = {}
    with suppress(ValueError):
        before = read_sweep(plan.folder)
    run_ids = {run.run_id for run in plan.runs}
    bring_back(plan.folder, run_ids.difference(run.run_id for group in plan.groups for run in group))
    if before and _asks_for(before.get("spec")) != _asks_for(plan.sweep.model_dump(mode="json")):
        set_aside(plan.folder, keep=run_ids)
    write_sweep(plan.folder, describe(plan))


def _asks_for(spec: Any) -> dict[str, Any]:
    """Return what of a spec says which runs there are."""
    return {key: value for key, value in dict(spec or {}).items() if key not in ("budget", "expect", "question")}


def not_tried(plan: Plan) -> list[dict[str, Any]]:
    """Return what `sweep.json` says of runs of a plan that failed before and are not trained again."""
    run_ids = plan.failed.intersection(run.run_id for run in plan.runs)
    return [each for each in failed_before(plan.folder) if each["run_id"] in run_ids]


def _trained_alone(plan: Plan) -> set[str]:
    """Return the run_ids of which it is known that they depend on no other: those that `--exact` trained or trains."""
    before: set[str] = set()
    with suppress(ValueError):
        before = set(read_sweep(plan.folder).get("exact", ()))
    now = {run.run_id for group in plan.groups for run in group}
    return before | now if plan.exact else before - now


def not_alone(plan: Plan) -> int:
    """Return how many runs of an exact plan are there already and were trained beside others, on a GPU."""
    if not plan.exact or not plan.gpus:
        return 0
    return len({run.run_id for run in plan.runs} - _trained_alone(plan))


def describe(plan: Plan) -> dict[str, Any]:
    """Return the resolved sweep as `sweep.json` holds it, what it says of the path so far included."""
    return {
        "spec": plan.sweep.model_dump(mode="json"),
        "question": plan.sweep.question,
        "tables": {table.name: table_to_json(table) for table in plan.sweep.tables},
        "data_hash": plan.corpus.hash,
        "vocab_size": plan.corpus.vocab_size,
        "run_ids": [run.run_id for run in plan.runs],
        "device": plan.device,
        "devices": list(plan.gpus),
        "exact": [run.run_id for run in plan.runs if run.run_id in _trained_alone(plan)],
        **provenance(),
        "path": kept_paths(plan.folder, [run.run_id for run in plan.runs]),
        **({"failed": failed} if (failed := not_tried(plan)) else {}),
    }
