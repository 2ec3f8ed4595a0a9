"""Proof of the judge: planted faults that it must catch and name, and a correct table that it must not fail.

The faults of `faults.FAULTS` go the way a user's runs go, through rules files, sweeps, Parquet and `judge`.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.proof.faults import BASE, FAULTS, Fault
from mupcheck.results.reading import Results
from mupcheck.spec.reading import make_sweep
from mupcheck.theory.parametrization import TABLES, rules_hash

# small enough for a minute or two on two cores; 8 seeds tell an exponent that is off by 1 from noise
WIDTHS, SEEDS, RECORD = (64, 128, 256), 8, (0, 1, 3)
FIRST_FRESH_SEED = 1000


@dataclass(frozen=True)
class Caught:
    """What became of one fault.

    Attributes:
        verdict: of the judge; "refused" where the results do not compare.
        said: the likely causes and findings, the first one first.
        caught: whether there was no pass (of a harmless change: no fail).
        named: whether the first cause or a finding is the fault's own; None where it has no signature of its own.
        n_cannot_tell: slopes without a verdict.
    """

    fault: Fault
    verdict: str
    said: tuple[str, ...]
    caught: bool
    named: bool | None
    n_cannot_tell: int


@dataclass(frozen=True)
class Repeated:
    """How often `gdn-mup` got which verdict with fresh seeds."""

    optimizer: str
    mode: str
    verdicts: dict[str, int]
    reasons: tuple[str, ...]  # of those that failed


def plant_faults(faults: Sequence[Fault] = FAULTS, *, jobs: int | None = None) -> Iterator[Caught]:
    """Train and judge every fault, those of one setting together, and yield what became of them.

    Args:
        jobs: processes at a time, as in `run_sweep`.
    """
    # the measuring half, met through files as anywhere else
    from mupcheck.sweep.runner import run_sweep

    def setting(fault: Fault) -> tuple[str, str, str]:
        return fault.optimizer, fault.mode, repr(sorted(fault.settings.items()))

    with tempfile.TemporaryDirectory() as folder:
        for i, (_, alike) in enumerate(groupby(sorted(faults, key=setting), key=setting)):
            together = list(alike)
            tables: dict[Fault, str] = {}
            for fault in together:
                changed = fault.rules or fault.multipliers
                tables[fault] = _write_rules(fault, Path(folder) / f"{len(tables)}-{i}.toml") if changed else BASE
            first = together[0]
            given = {
                **_grid(first.optimizer, first.mode),
                **first.settings,
                "name": f"setting-{i}",
                "parametrizations": sorted({*tables.values(), BASE}),
            }
            results = run_sweep(make_sweep(given), out=folder, device="cpu", jobs=jobs)
            for fault in together:
                yield _judge_one(fault, results, Path(tables[fault]).stem)


def repeat(n: int, settings: Iterable[tuple[str, str]], *, jobs: int | None = None) -> Iterator[Repeated]:
    """Judge `gdn-mup` n times with fresh seeds, in each setting (optimizer, mode)."""
    from mupcheck.sweep.runner import run_sweep

    for optimizer, mode in settings:
        seeds = [FIRST_FRESH_SEED + seed for seed in range(n * SEEDS)]
        with tempfile.TemporaryDirectory() as folder:
            given = _grid(optimizer, mode) | {"name": "repeat", "parametrizations": [BASE], "seeds": seeds}
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


def _grid(optimizer: str, mode: str) -> dict[str, Any]:
    return {
        "kind": "coord",
        "data": "synthetic",
        "optimizer": optimizer,
        "mode": mode,
        "widths": WIDTHS,
        "seeds": SEEDS,
        "record": RECORD,
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


def _judge_one(fault: Fault, results: Results, table: str) -> Caught:
    runs = results.runs[results.runs["parametrization"] == table]
    coords = results.coords[results.coords["run_id"].isin(runs["run_id"])]
    sweeps = {name: {**resolved, "run_ids": list(runs["run_id"])} for name, resolved in results.sweeps.items()}
    mine = replace(results, runs=runs, coords=coords, sweeps=sweeps)
    if fault.plant:
        mine = PLANTS[fault.plant](mine)
    try:
        (judgement,) = judge(mine)
    except ValueError as error:
        return Caught(fault, "refused", (str(error),), True, f"differ in {fault.named} " in str(error), 0)
    said, open_ones = _said(judgement), judgement.counts["cannot tell"]
    if fault.harmless:
        return Caught(fault, judgement.verdict, said, judgement.verdict != "fail", None, open_ones)
    first_cause = [cause.row for cause in judgement.causes[:1]]
    findings = [finding.name for finding in judgement.findings if finding.effect != "warning"]
    phrase = " " in fault.named and fault.named in judgement.reason
    named = fault.named in (*first_cause, *findings) or phrase
    return Caught(fault, judgement.verdict, said, judgement.verdict != "pass", named, open_ones)


def _said(judgement: Judgement) -> tuple[str, ...]:
    """Return the rows of the causes and the names of the findings that count; the reason where there are none."""
    causes = [cause.row for cause in judgement.causes]
    findings = dict.fromkeys(finding.name for finding in judgement.findings if finding.effect != "warning")
    return (*causes, *findings) or (judgement.reason,)


def _as_base(results: Results) -> Results:
    """Let runs that followed another table pass for runs of the base table: the code does not follow its table."""
    run = results.runs.iloc[0]
    hashed = rules_hash(TABLES[BASE], optimizer=run["optimizer"], mode=run["mode"])
    return replace(results, runs=results.runs.assign(parametrization=BASE, rules_hash=hashed))


def _one_width(results: Results) -> Results:
    """Let runs of the smallest width pass for runs of the largest."""
    runs = results.runs
    small, large = (runs[runs["width"] == edge(runs["width"])].sort_values("seed") for edge in (min, max))
    same = dict(zip(small["run_id"], large["run_id"], strict=True))
    copied = results.coords[results.coords["run_id"].isin(same)]
    kept = results.coords[~results.coords["run_id"].isin(set(large["run_id"]))]
    coords = pd.concat([kept, copied.assign(run_id=copied["run_id"].map(same))])
    counts = runs["n_params"].where(runs["width"] != max(runs["width"]), small["n_params"].iloc[0])
    return replace(results, runs=runs.assign(n_params=counts), coords=coords)


def _other_data(results: Results) -> Results:
    last = results.runs["width"] == max(results.runs["width"])
    return replace(results, runs=results.runs.assign(data_hash=results.runs["data_hash"].mask(last, "0" * 16)))


def _one_seed(results: Results) -> Results:
    """Let every seed have the first one's numbers."""
    first = results.runs[results.runs["seed"] == min(results.runs["seed"])].set_index("width")["run_id"]
    source = results.runs.set_index("run_id")["width"].map(first)
    rows = dict(list(results.coords.groupby("run_id")))
    return replace(results, coords=pd.concat([rows[same].assign(run_id=run_id) for run_id, same in source.items()]))


def _nan(results: Results) -> Results:
    coords = results.coords.reset_index(drop=True)
    at = coords.index[(coords["kind"] == "effective_update") & (coords["site"] == "q_proj")][0]
    coords.loc[at, "value"] = float("nan")
    return replace(results, coords=coords)


def _missing(results: Results) -> Results:
    return replace(results, runs=results.runs.iloc[1:])


PLANTS: dict[str, Callable[[Results], Results]] = {
    "as the base table": _as_base,
    "one width": _one_width,
    "other data": _other_data,
    "one seed": _one_seed,
    "nan": _nan,
    "missing": _missing,
}
