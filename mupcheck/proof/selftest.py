"""Proof of the judge: planted faults that it must catch and name, and a correct table that it must not fail.

A fault goes the way a user's runs go: a rules file or a patch of the training code, a sweep, Parquet, and `judge`. The
code is patched from outside, in the process that trains, for the time of one sweep.
"""

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mupcheck.coordinates.judge import judge
from mupcheck.proof.caught import Answer, Caught, Repeated, Said, answer_of, answer_of_sweep, compare
from mupcheck.proof.faults import BASE, CODE_WIDTHS, RECORD, SEEDS, WIDTHS, Fault
from mupcheck.proof.sweeps import KIND as SWEEP
from mupcheck.proof.sweeps import planted_sweep
from mupcheck.results.reading import Results
from mupcheck.spec.reading import make_sweep

FIRST_FRESH_SEED = 1000
MOST_TABLES = 5  # that train as replicas of one sweep: no process has much more to do than another
MOST_EDITS = 8  # that one process judges
# what a worker imports once
PRELOAD = ("mupcheck.training.train", "mupcheck.sweep.runner", "mupcheck.proof.selftest", "mupcheck.proof.code_faults")


# --- planting --------------------------------------------------------------------------------------------------------


def plant_faults(faults: Sequence[Fault], *, jobs: int | None = None) -> Iterator[Caught]:
    """Train and judge every fault, and a correct check of each setting beside it; yield what became of them.

    Args:
        faults: of `mupcheck.proof.catalogue`, or others made as these are.
        jobs: processes at a time, as in `run_sweep`; with 1 the code is patched in this process.
    """
    from mupcheck.sweep.engines import local
    from mupcheck.sweep.machine import cores

    controls = {_control_key(fault): _control_of(fault) for fault in faults}
    batches = [tuple(batch) for batch in _batches([*controls.values(), *faults])]
    places = {fault: (i, j) for i, batch in enumerate(batches) for j, fault in enumerate(batch)}
    answers: dict[int, list[Answer]] = {}
    waiting = list(faults)
    with tempfile.TemporaryDirectory() as folder:
        work = partial(plant_batch, folder=Path(folder))
        numbered = [(i, *batch) for i, batch in enumerate(batches)]
        for message in local.execute(numbered, work, jobs=jobs or cores(), preload=PRELOAD):
            if message.steps is not None:
                continue
            number, batch = message.group[0], batches[message.group[0]]
            lost = Answer("stopped", (Said("fail", "stopped", str(message.error)),), 0)
            answers[number] = [lost] * len(batch) if message.error else _read(Path(folder), number)
            judged = {fault: answers[i][j] for fault, (i, j) in places.items() if i in answers}
            ready = [each for each in waiting if each in judged and controls[_control_key(each)] in judged]
            for fault in ready:
                waiting.remove(fault)
                yield compare(fault, judged[fault], judged[controls[_control_key(fault)]])


def _control_key(fault: Fault) -> tuple[Any, ...]:
    return fault.kind == SWEEP, fault.optimizer, fault.mode, _widths(fault), repr(sorted(fault.settings.items()))


def _control_of(fault: Fault) -> Fault:
    """Return the correct check that a fault is held against: the same settings, `gdn-mup`, the code as it is."""
    kind = SWEEP if fault.kind == SWEEP else "tables" if _widths(fault) == WIDTHS else "control"
    return Fault("correct", fault.optimizer, fault.mode, kind, settings=fault.settings, harmless=True)


def _widths(fault: Fault) -> tuple[int, ...]:
    return WIDTHS if fault.kind in ("tables", "settings") else CODE_WIDTHS


def _batches(faults: Iterable[Fault]) -> Iterator[list[Fault]]:
    """Yield faults that share a sweep: those of tables as replicas, those of stored numbers on the same runs."""
    together: dict[Any, list[Fault]] = {}
    for fault in faults:
        settings = repr(sorted({**fault.settings, **fault.wrong}.items()))
        trained = fault.optimizer, fault.mode, _widths(fault), settings, fault.kind == SWEEP
        together.setdefault((*trained, fault.patch, fault.where if fault.patch else None), []).append(fault)
    # what takes longest first
    for alike in sorted(together.values(), key=lambda alike: -len({_table_key(fault) for fault in alike})):
        most = MOST_TABLES if len({_table_key(fault) for fault in alike}) > 1 else MOST_EDITS
        yield from (alike[at : at + most] for at in range(0, len(alike), most))


def _table_key(fault: Fault) -> str:
    return repr((fault.rules, sorted(fault.multipliers.items())))


def plant_batch(batch: tuple[Any, ...], *, folder: Path) -> Iterator[int]:
    """Train what faults of one setting share, judge each, and write the answers into `folder`; yield as a worker does.

    Args:
        batch: the batch's number, then its faults.
    """
    number, *faults = batch
    answers: list[Answer] = []
    yield 0
    if faults[0].kind == SWEEP:
        answers = [answer_of_sweep(fault, planted_sweep(fault.optimizer, fault.mode)) for fault in faults]
    else:
        try:
            results, tables = _train(faults, folder / f"batch-{number}")
        except Exception as error:
            # code that is broken on purpose may raise anything
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            answers = [Answer("stopped", (Said("fail", "stopped", text),), 0)] * len(faults)
        else:
            answers = [answer_of(fault, results, tables[fault]) for fault in faults]
    (folder / f"{number}.pickle").write_bytes(pickle.dumps(answers))


def _read(folder: Path, number: int) -> list[Answer]:
    found: list[Answer] = pickle.loads((folder / f"{number}.pickle").read_bytes())
    return found


def _train(faults: Sequence[Fault], folder: Path) -> tuple[Results, dict[Fault, str]]:
    """Train one sweep with the faults' code and tables; return its results, and the table's name of each fault."""
    # the measuring half, met through files as anywhere else
    from mupcheck.proof.patches import patched
    from mupcheck.sweep.runner import run_sweep

    folder.mkdir()
    names: dict[str, str] = {}
    for fault in faults:
        if (key := _table_key(fault)) not in names:
            changed = fault.rules or fault.multipliers
            names[key] = _write_rules(fault, folder / f"table-{len(names)}.toml") if changed else BASE
    first = faults[0]
    given = {
        **_grid(first.optimizer, first.mode, _widths(first)),
        **first.settings,
        **first.wrong,
        "name": "planted",
        "parametrizations": list(names.values()),
    }
    with patched(first.patch(first.where) if first.patch else ()):
        results = run_sweep(make_sweep(given), out=folder, device="cpu", jobs=1)
    return results, {fault: Path(names[_table_key(fault)]).stem for fault in faults}


def _grid(optimizer: str, mode: str, widths: Sequence[int]) -> dict[str, Any]:
    return {
        "kind": "coord",
        "data": "synthetic",
        "optimizer": optimizer,
        "mode": mode,
        "widths": list(widths),
        "seeds": SEEDS,
        "record": list(RECORD),
    }


def _write_rules(fault: Fault, path: Path) -> str:
    """Write a fault's table as a rules file, named as the file is, and return its path."""
    lines = [f'name = "{path.stem}"', f'base = "{BASE}"']
    for role in dict.fromkeys(role for role, _, _ in fault.rules):
        exponents = [f"{field} = {exponent:.4f}" for each, field, exponent in fault.rules if each == role]
        lines += ["[[rule]]", f'role = "{role}"', *exponents]
    if fault.multipliers:
        lines += ["[multiplier]", *(f"{site} = {exponent:.4f}" for site, exponent in fault.multipliers.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


# --- a correct table -------------------------------------------------------------------------------------------------


def repeat(n: int, settings: Iterable[tuple[str, str]], *, jobs: int | None = None) -> Iterator[Repeated]:
    """Judge `gdn-mup` n times with fresh seeds, in each setting (optimizer, mode)."""
    from mupcheck.sweep.runner import run_sweep

    for optimizer, mode in settings:
        seeds = [FIRST_FRESH_SEED + seed for seed in range(n * SEEDS)]
        with tempfile.TemporaryDirectory() as folder:
            given = _grid(optimizer, mode, WIDTHS) | {"name": "repeat", "parametrizations": [BASE], "seeds": seeds}
            results = run_sweep(make_sweep(given), out=folder, device="cpu", jobs=jobs)
        yield count_verdicts(results, optimizer, mode, n_seeds=SEEDS)


def count_verdicts(results: Results, optimizer: str, mode: str, *, n_seeds: int) -> Repeated:
    """Judge results in blocks of seeds, each a repetition of the same check, and count the verdicts."""
    seeds = sorted(set(results.runs["seed"]))
    verdicts: dict[str, int] = {}
    reasons = []
    for at in range(0, len(seeds), n_seeds):
        runs = results.runs[results.runs["seed"].isin(seeds[at : at + n_seeds])]
        coords = results.coords[results.coords["run_id"].isin(runs["run_id"])]
        (judgement,) = judge(replace(results, runs=runs, coords=coords, sweeps={}))
        verdicts[judgement.verdict] = verdicts.get(judgement.verdict, 0) + 1
        if judgement.verdict == "fail":
            reasons.append(judgement.reason)
    return Repeated(optimizer, mode, verdicts, tuple(reasons))
