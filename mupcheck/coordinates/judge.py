"""The whole verdict on a coordinate check: validity first, then slopes, then a likely cause and what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from mupcheck.coordinates import own
from mupcheck.coordinates.by_width import Sizes, pool, sizes_by_width
from mupcheck.coordinates.coded import beside, coded, spelled
from mupcheck.coordinates.diagnosis import Cause, diagnose
from mupcheck.coordinates.finding import EFFECTS, Finding
from mupcheck.coordinates.foreign import NO_UPDATE, advise, known_settings
from mupcheck.coordinates.grid import SAME, check_comparable, check_once, need_columns, need_tables
from mupcheck.coordinates.readings import departures
from mupcheck.coordinates.seeds import more_seeds
from mupcheck.coordinates.slopes import FAMILY_LEVEL, MIN_WIDTHS, VERDICTS, farthest_first, fit_group
from mupcheck.coordinates.validity import OF_ANY_MODEL, examine
from mupcheck.coordinates.widths import OFF, find_widths
from mupcheck.results.comparable import CONFIDENCE, GROUP, find_rules, is_imported, same_by_mode, title_of
from mupcheck.results.path import Path, paths_of, say_paths
from mupcheck.results.printing import Answers, Verdict
from mupcheck.results.reading import Results, n_missing, n_planned, need_results
from mupcheck.theory.parametrization import Table, write_exponent
from mupcheck.theory.required import OWN

DETAIL_LEVEL = 0.01  # of the slopes per layer and step: they only add to what the pooled ones say
FEWEST_SEEDS_ALONE = 4  # for one layer and step to fail a group
N_WORST = 5  # offenders that a judgement names
LOOKS_OF_TOP_UP = 6  # from few seeds to MOST_SEEDS by GROWTH, and two more widths


@dataclass(frozen=True, repr=False, eq=False)
class Judgement(Verdict):
    """The answer on one (sweep, parametrization, optimizer, mode).

    Attributes:
        verdict: pass, fail or cannot tell.
        reason: one line that says why.
        next_step: what to do about it, "" where it passed.
        counts: how many pooled slopes got which verdict.
        pooled: rows of `fit_slopes` over all layers and later steps; these decide.
        slopes: rows of `fit_slopes` per layer and step.
        worst: lines on the slopes that decided against a pass, the farthest off first.
        findings: what validity found, those that count first.
        causes: the likely causes of a failure, ranked.
        measured: how it was measured: what all runs share, with `widths`, `seeds`, `record`, `torch` and `device`.
        confidence: of the intervals.
        paths: how the backend that trained compares with the reference, where that is known.
        sizes: of each pooled slope, by rising width (`sizes_by_width`).
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    verdict: str
    reason: str
    next_step: str
    counts: dict[str, int]
    pooled: pd.DataFrame
    slopes: pd.DataFrame
    worst: tuple[str, ...]
    findings: tuple[Finding, ...]
    causes: tuple[Cause, ...]
    measured: dict[str, Any]
    confidence: float = CONFIDENCE
    paths: tuple[Path, ...] = ()
    sizes: Sizes = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return "gdn-mup (adamw, head-dim)"."""
        return title_of(self)

    @property
    def how_measured(self) -> str:
        """Say in one line what the slopes are over, and how sure their intervals are."""
        of = self.measured
        seeds, widths, record = of["seeds"], *(", ".join(map(str, of[name])) for name in ("widths", "record"))
        in_a_row = len(seeds) > 2 and tuple(seeds) == tuple(range(seeds[0], seeds[0] + len(seeds)))
        listed = f"{seeds[0]} to {seeds[-1]}" if in_a_row else ", ".join(map(str, seeds))
        if self.mode == OWN:
            of_what, rest = f"own model {self.sweep}: {self.optimizer}, widths {widths}", ""
        else:
            known = known_settings(of, self.optimizer, self.mode)
            of_what, rest = f"coordinate check {self.sweep}: {known.setting}widths {widths}{known.base}", known.rest
        return (
            f"{of_what}, {len(seeds)} seed{'s' * (len(seeds) > 1)} ({listed}), steps {record}{rest}; "
            f"{self.confidence:.0%} intervals, slopes pooled over layers and later steps"
            + (f"; {path}" if (path := say_paths(self.paths)) else "")
        )

    @property
    def counted(self) -> str:
        """Say how many slopes got which verdict, and of which there are so many."""
        counts = self.counts
        judged = ", ".join(f"{counts[name]} {name}" for name in ("pass", "fail", "cannot tell"))
        n = sum(counts.values()) - counts["info"]
        return f"{n} judged of {sum(counts.values())} pooled slopes: {judged}"


def judge(results: Results, *, confidence: float = CONFIDENCE) -> list[Judgement]:
    """Judge every coordinate check among the results; runs of other kinds are left out.

    `print(judge(results))` prints the verdicts, `print(judgement)` one of them; `judgement.pooled` has the slopes that
    decided, `judgement.slopes` those of each layer and step.

    The pooled slopes decide. A slope of one layer and step fails the group too, if it does among all of them (Holm): a
    fault of a single layer shows, the worst of many noisy ones does not.

    Args:
        results: what `load_results` returned, with its tables runs and coords.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: as `fit_slopes`, or if no run is of a coordinate check.
    """
    need_results(results, "judge()", kind="coord")
    chosen = results.runs[results.runs["kind"] == "coord"]
    if len(chosen):
        need_columns(chosen, "runs", ("n_params", "clipped_fraction", "torch", "device"))
        need_tables(chosen, results.coords)
    judgements = []
    every = coded(results.coords)
    for key, runs in chosen.groupby(GROUP):
        resolved = results.sweeps.get(key[0], {})
        table = find_rules(runs, resolved.get("tables", {}))
        coords = every[every["run_id"].isin(runs["run_id"])]
        check_once(coords)
        check_comparable(runs, key)
        # who looks again after every round of a top-up has as many chances to be wrong
        looks = LOOKS_OF_TOP_UP if resolved.get("spec", {}).get("top_up") else 1
        foreign, named = is_imported(runs), resolved.get("required", {})
        options: dict[str, Any] = {"confidence": confidence, "table": table, "named": named}
        measured, together = coords[coords["kind"] != "diagnostic"], pool(coords)
        slopes = fit_group(runs, measured, coords, level=DETAIL_LEVEL / looks, **options)
        pooled = fit_group(runs, together, coords, level=FAMILY_LEVEL / looks, **options)
        slopes = own.without_dips(slopes) if key[3] == OWN else slopes
        lacking, asked = n_missing(results, key[0]), n_planned(results, key[0])
        paths, parts = paths_of(resolved, runs), (*own.PARTS, *OF_ANY_MODEL) if key[3] == OWN else None
        given: dict[str, Any] = {"missing": lacking, "planned": asked, "paths": paths, "steps": results.steps}
        findings = examine(runs, coords, table=table, parts=parts, **given)
        off = tuple(find_widths(_failed(_in_doubt(pooled, findings), _in_doubt(slopes, findings)), slopes))
        if not foreign and not any(finding.effect == "fail" for finding in off):
            # a width that is off bends whatever is read off a slope
            setting = {"tied": bool(runs["tied"].iloc[0]), "decay": bool(runs["weight_decay"].iloc[0] > 0)}
            off += (*_not_as_implied(pooled, findings), *_not_followed(slopes, table, findings, **setting))
        findings = tuple(sorted((*findings, *off), key=lambda finding: EFFECTS.index(finding.effect)))
        pooled, slopes = _in_doubt(pooled, findings), _in_doubt(slopes, findings)
        judgement = _conclude(key, runs, coords, pooled, slopes, findings, table)
        if foreign:
            told = (judgement.verdict, judgement.reason, judgement.next_step)
            judgement = replace(judgement, **advise(*told, pooled, named), causes=())
        judgements.append(replace(judgement, confidence=confidence, paths=paths, sizes=sizes_by_width(runs, together)))
    return Answers(judgements)


def _affected(table: pd.DataFrame, finding: Finding) -> pd.Series:
    """Return which rows of `fit_slopes` a finding puts in doubt."""
    kinds = table["kind"].isin(finding.kinds) if finding.kinds else True
    sites = table["site"].isin(finding.sites) if finding.sites else True
    steps = table["step"] > 0 if finding.later else True
    return pd.Series(finding.effect == "cannot tell", index=table.index) & kinds & sites & steps


def _in_doubt(table: pd.DataFrame, findings: Sequence[Finding]) -> pd.DataFrame:
    """Return rows of `fit_slopes` with no verdict where a finding says that there can be none."""
    table = table.copy()
    for finding in (each for each in findings if each.effect == "cannot tell"):
        rows = _affected(table, finding) & ~table["verdict"].isin(["info", "cannot tell"])
        table.loc[rows, "reason"] = table.loc[rows, "reason"] + f"; {finding}"
        table.loc[rows, "verdict"] = "cannot tell"
    return table


def _not_as_implied(pooled: pd.DataFrame, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Find slopes that not even the table at hand explains, where nothing else does."""
    rows = pooled[pooled["as_implied"].eq(False)]
    for finding in findings:
        rows = rows[~_affected(rows, finding)]
    if len(rows):
        row = rows.iloc[0]
        many = f"{len(rows)} pooled slopes are" if len(rows) > 1 else "1 pooled slope is"
        text = f"{many} not as the table implies, such as {row['kind']} {row['stat']} of {row['site']}: "
        text += f"{row['slope']:+.2f}, implied {row['implied_low']:+.2g} to {row['implied_high']:+.2g}"
        yield Finding(
            "not as implied", "no pass", text, "the code does not follow its table, or the widths are too small"
        )


def _not_followed(
    slopes: pd.DataFrame, table: Table | None, findings: Sequence[Finding], *, tied: bool, decay: bool
) -> Iterator[Finding]:
    """Find parameters whose exponents, read off their slopes, are not the table's."""
    in_doubt = {site for finding in findings if finding.effect == "cannot tell" for site in finding.sites}
    if table is None or any(finding.effect == "cannot tell" and not finding.sites for finding in findings):
        return
    if slopes.empty:
        return
    optimizer, mode = slopes[["optimizer", "mode"]].iloc[0]
    for off in departures(slopes, table, optimizer=optimizer, mode=mode, tied=tied, decay=decay):
        if off.site not in in_doubt:
            who = off.site + (f" in layer {', '.join(map(str, off.layers))}" if off.layers else "")
            seen = f"{round(off.read, 2) + 0.0:+.2f}"
            text = f"{who} follows {off.field} exponent {seen}, where the table has {write_exponent(off.given)}"
            advice = "the code does not apply its table to this parameter"
            yield Finding("not followed", "no pass", text, advice, layers=off.layers)


def _failed(pooled: pd.DataFrame, slopes: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `fit_slopes` that fail a group: pooled ones, else those of one layer and step."""
    failed = pooled[pooled["verdict"] == "fail"]
    # few seeds agree by luck on one of hundreds
    alone = (slopes["verdict"] == "fail") & (slopes["n_seeds"] >= FEWEST_SEEDS_ALONE)
    return slopes[alone] if failed.empty else failed


def _conclude(
    key: tuple[str, ...],
    runs: pd.DataFrame,
    coords: pd.DataFrame,
    pooled: pd.DataFrame,
    slopes: pd.DataFrame,
    findings: tuple[Finding, ...],
    table: Table | None,
) -> Judgement:
    """Return the judgement on one group from its slopes and findings."""
    first = runs.iloc[0]
    counts = {verdict: pooled["verdict"].tolist().count(verdict) for verdict in VERDICTS}
    failed = _failed(pooled, slopes)
    later = "later steps" if counts["fail"] else ""
    open_ones = pooled[pooled["verdict"] == "cannot tell"]
    against = {effect: [finding for finding in findings if finding.effect == effect] for effect in EFFECTS}
    causes: tuple[Cause, ...] = ()
    worst: tuple[str, ...] = ()
    if len(failed) or against["fail"]:
        verdict, worst = "fail", _worst(failed, later=later)
        setting = {"optimizer": first["optimizer"], "mode": first["mode"], "tied": bool(first["tied"])}
        setting["decay"] = bool(first["weight_decay"] > 0)
        if any(finding.name == OFF for finding in against["fail"]):
            pass  # a width that is off bends whatever is read off a slope
        elif first["mode"] == OWN:
            causes = own.causes(pooled, slopes, spelled(beside(coords, runs, ("width",))))
        elif not is_imported(runs):
            causes = diagnose(pooled, slopes, table=table, **setting)
        reason = str(against["fail"][0]) if against["fail"] else worst[0]
        if first["mode"] == OWN and causes and not against["fail"]:
            reason = causes[0].text
        advice = [finding.advice for finding in against["fail"]]
        advice += [cause.remedy for cause in causes]
        next_step = advice[0] if advice else f"mupcheck explain {failed.iloc[0]['site']}"
    elif lost := [finding for finding in findings if finding.name == "missing runs"]:
        verdict, reason, next_step = "cannot tell", lost[0].text, lost[0].advice
        worst = _worst(open_ones)
    elif (few := _too_few(runs)) and counts["cannot tell"]:
        verdict, (reason, next_step) = "cannot tell", few
    elif against["cannot tell"] and (counts["cannot tell"] or not counts["pass"]):
        verdict = "cannot tell"
        reason, next_step = against["cannot tell"][0].text, against["cannot tell"][0].advice
    elif counts["cannot tell"]:
        verdict, worst = "cannot tell", _worst(open_ones)
        n_judged = len(pooled) - counts["info"]
        reason = f"{counts['cannot tell']} of {n_judged} slopes are not known well enough, such as {worst[0]}"
        next_step = _more(open_ones, runs)
    elif not ((pooled["kind"] == "effective_update") & (pooled["verdict"] != "info")).any():
        verdict, reason = "cannot tell", NO_UPDATE
        next_step = "set probes = 'full'" if (slopes["step"] > 0).any() else "record a step after 0"
    elif against["no pass"]:
        verdict = "cannot tell"
        reason, next_step = against["no pass"][0].text, against["no pass"][0].advice
    else:
        verdict, reason, next_step = "pass", f"all {counts['pass']} judged slopes are as required", ""
    sweep, parametrization, optimizer, mode = key
    return Judgement(
        sweep=sweep,
        parametrization=parametrization,
        optimizer=optimizer,
        mode=mode,
        verdict=verdict,
        reason=reason,
        next_step=next_step,
        counts=counts,
        pooled=pooled,
        slopes=slopes,
        worst=worst,
        findings=findings,
        causes=causes,
        measured=_measured(runs, coords),
    )


def _worst(table: pd.DataFrame, *, later: str = "later steps") -> tuple[str, ...]:
    """Return lines on the rows that are farthest off, one for each kind and site; `later` names the steps after 0."""
    rows = farthest_first(table).drop_duplicates(["kind", "site"]).head(N_WORST)
    return tuple(
        f"{row.kind} {row.stat} of {row.site}{f', layer {row.layer}' if row.layer >= 0 else ''}, "
        f"{'step 0' if row.step == 0 else later or f'step {row.step}'}: {row.reason}"
        for row in rows.itertuples()
    )


def open_slopes(judgement: Judgement) -> pd.DataFrame:
    """Return the pooled slopes that more seeds or widths may decide: no finding puts them in doubt."""
    rows = judgement.pooled[judgement.pooled["verdict"] == "cannot tell"]
    for finding in judgement.findings:
        rows = rows[~_affected(rows, finding)]
    return rows[rows["slope"].notna()]


def _too_few(runs: pd.DataFrame) -> tuple[str, str] | None:
    """Say what a check of fewer than three widths, or of one seed, lacks, and what to give; None where it has both."""
    widths, n_seeds = sorted(set(runs["width"])), runs["seed"].nunique()
    if len(widths) < MIN_WIDTHS:
        more = [widths[-1] * 2**i for i in range(1, MIN_WIDTHS - len(widths) + 1)]
        shown = f"{len(widths)} width{'s' * (len(widths) > 1)} ({', '.join(map(str, widths))})"
        reason = f"{shown}, where a slope needs at least {MIN_WIDTHS}"
        return reason, f"give at least {MIN_WIDTHS}, such as --widths {','.join(map(str, [*widths, *more]))}"
    if widths[-1] < 2 * widths[0]:
        reason = f"widths {', '.join(map(str, widths))} span less than an octave, so a slope is hardly seen"
        return reason, f"give widths far apart, such as --widths {','.join(str(widths[0] * 2**i) for i in range(3))}"
    if n_seeds < 2:
        return "one seed, so the interval is only that of the fit's residuals", "give at least 2 seeds: --seeds 8"
    return None


def _more(open_ones: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say what would decide slopes whose interval lies across the tolerance: so many seeds, or larger widths."""
    n_seeds = runs["seed"].nunique()
    if len(nothing := open_ones[open_ones["slope"].isna()]) == len(open_ones):
        row = nothing.iloc[0]
        return f"see why {row['kind']} of {row['site']} has no size: {row['reason'].partition('; ')[2]}"
    open_ones = open_ones[open_ones["slope"].notna()]
    if more := more_seeds(open_ones, n_seeds):
        return f"give more seeds, about {more} (--seeds {more}, or --top-up)"
    why = "the size bends there" if (open_ones["open"] == "widths").any() else "more seeds will hardly do"
    return f"add a larger width, such as {2 * runs['width'].max()}: {why} (--top-up tries)"


def _measured(runs: pd.DataFrame, coords: pd.DataFrame) -> dict[str, Any]:
    """Return what the runs of a group share, and over what they range."""
    shared = {name: runs[name].iloc[0] for name in (*SAME, *same_by_mode(runs["mode"].iloc[0]))}
    return shared | {
        "widths": tuple(sorted(set(runs["width"]))),
        "seeds": tuple(sorted(set(runs["seed"]))),
        "record": tuple(sorted(coords["step"].unique().tolist())),
        "torch": tuple(sorted(set(runs["torch"].dropna()))),
        "device": tuple(sorted(set(runs["device"].dropna()))),
    }
