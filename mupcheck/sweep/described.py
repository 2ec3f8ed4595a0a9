"""What `sweep.json` says of a plan, and the folder's tables made those of that plan."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mupcheck.results.aside import bring_back, set_aside
from mupcheck.results.files import alone
from mupcheck.results.reading import finished_runs, read_sweep
from mupcheck.results.writing import write_sweep
from mupcheck.spec.sweep import NOT_ASKED
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
    before = _before(plan)
    run_ids = {run.run_id for run in plan.runs}
    # away first, then back: whenever it is cut off, the tables are of one spec
    if before and not _is_same(before, plan):
        set_aside(plan.folder, keep=run_ids)
    bring_back(plan.folder, run_ids.difference(run.run_id for group in plan.groups for run in group))
    _write(plan, ())


def write_failed(plan: Plan, failed: Sequence[dict[str, Any]]) -> None:
    """Write what a sweep is and which of its runs failed, as `failure_of` has it.

    Raises:
        StoreError: if that cannot be written.
    """
    _write(plan, failed)


def _write(plan: Plan, failed: Sequence[dict[str, Any]]) -> None:
    """Write `sweep.json`, one process at a time; what another one of the same sweep wrote there of its rounds stays."""
    with alone(plan.folder):
        _write_alone(plan, failed)


def _write_alone(plan: Plan, failed: Sequence[dict[str, Any]]) -> None:
    before, document, claims = _before(plan), describe(plan), plan.claims
    same = _is_same(before, plan)
    # the one that trained last: who looks at a finished sweep changes nothing
    commands = [claims.command if claims is not None else "", str(before.get("command", "")) if same else ""]
    command = next(filter(None, commands if plan.missing else reversed(commands)), "")
    document |= {"command": command} if command else {}
    said = [*document.pop("failed", ()), *failed]
    if claims is not None and same and claims.others():
        known = dict(zip(document["run_ids"], document["widths"], strict=True))
        theirs = dict(zip(before.get("run_ids", ()), before.get("widths", ()), strict=False))
        known |= {run_id: width for run_id, width in theirs.items() if run_id not in known}
        document |= {"run_ids": list(known), "widths": list(known.values())}
        mine = {each["run_id"] for each in said}
        said += [each for each in failed_before(plan.folder) if each["run_id"] not in mine]
    write_sweep(plan.folder, document | ({"failed": said} if said else {}))


def _before(plan: Plan) -> dict[str, Any]:
    """Return what `sweep.json` says, nothing where it is not there or cannot be read."""
    with suppress(ValueError):
        return read_sweep(plan.folder)
    return {}


def _is_same(before: dict[str, Any], plan: Plan) -> bool:
    """Say whether what `sweep.json` said asks for the same runs as a plan."""
    return bool(before) and _asks_for(before.get("spec")) == _asks_for(plan.sweep.model_dump(mode="json"))


def _asks_for(spec: Any) -> dict[str, Any]:
    """Return what of a spec says which runs there are; what is empty asks for nothing, as what an older one lacks."""
    said = {key: value for key, value in dict(spec or {}).items() if key not in NOT_ASKED}
    return {key: value for key, value in said.items() if value not in ({}, [], None)}


def not_tried(plan: Plan) -> list[dict[str, Any]]:
    """Return what `sweep.json` says of runs of a plan that failed before and are not trained again."""
    run_ids = plan.failed.intersection(run.run_id for run in plan.runs)
    return [each for each in failed_before(plan.folder) if each["run_id"] in run_ids]


def lacking(plan: Plan) -> set[str]:
    """Return the run_ids of a plan that are not in its folder by now."""
    return {run.run_id for run in plan.runs} - finished_runs(plan.folder)


def made_up_for(plan: Plan) -> bool:
    """Say whether what failed here is there all the same, as another process trained it since.

    Not where runs are trained anew, and not of a store, where what failed may be the sending.
    """
    return not plan.fresh and not plan.address and not lacking(plan)


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
        "widths": [run.width for run in plan.runs],
        "device": plan.device,
        "devices": list(plan.gpus),
        "exact": [run.run_id for run in plan.runs if run.run_id in _trained_alone(plan)],
        **provenance(),
        "path": kept_paths(plan.folder, [run.run_id for run in plan.runs]),
        **({"failed": failed} if (failed := not_tried(plan)) else {}),
    }
