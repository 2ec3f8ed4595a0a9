"""How much of two cores a sweep uses, and what the engine itself takes. For a machine that does nothing else."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from lines import Line
from processes import ROOT, start
from tables import write_sweep_file

LONGEST = 3600.0  # seconds
GAIN, OVERHEAD = 1.7, 0.02
JOBS = 2
RUN_SECONDS = 10.0
RUNS = 24
TRIAL_STEPS = 600
DONE = (0, 1, 3)


def measure(place: Path, *, steps: int | None = None, run_seconds: float = RUN_SECONDS) -> Iterator[Line]:
    """Time the demo sweep with one job and with two, and a sweep of long runs with two.

    Args:
        steps: of each run of the demo sweep (default: its own).
        run_seconds: that a run of the other sweep takes, about.
    """
    text = (ROOT / "sweeps" / "demo_lr.toml").read_text(encoding="utf-8")
    if steps is not None:
        text = re.sub(r"(?m)^steps *=.*$", f"steps = {steps}", text)
    demo = place / "demo.toml"
    demo.write_text(text, encoding="utf-8")
    one, two = (_seconds(demo, place / f"jobs-{jobs}", jobs, exact=False) for jobs in (1, JOBS))
    measured = f"{one / two:.2f} ({one:.0f} s and {two:.0f} s)"
    yield Line(f"--jobs {JOBS} beside --jobs 1, demo sweep", f"at least {GAIN} times", measured, one / two >= GAIN)

    # as long as it should take, from how long a short one takes
    trial = write_sweep_file(place / "trial.toml", lrs="[0.01]", seeds=JOBS, steps=TRIAL_STEPS)
    _seconds(trial, place / "trial", JOBS)
    a_step = _trained(place / "trial").max() / TRIAL_STEPS
    long = write_sweep_file(place / "long.toml", lrs="[0.01]", seeds=RUNS, steps=round(run_seconds / a_step))
    wall = _seconds(long, place / "long", JOBS)
    trained = _trained(place / "long")
    all_of_it = float(wall / (trained.sum() / JOBS) - 1)
    share = all_of_it - _idle(place / "long") / float(trained.sum())
    says = f"engine beside {len(trained)} runs of {trained.mean():.1f} s, {JOBS} jobs"
    measured = f"{share:.1%} ({wall:.1f} s), and {all_of_it:.1%} with the core that had no run left at the end"
    yield Line(says, f"at most {OVERHEAD:.0%}", measured, share <= OVERHEAD)


def _seconds(file: Path, out: Path, jobs: int, *, exact: bool = True) -> float:
    """Run a sweep file and return the seconds from the line that it begins to train to the line that it is done.

    What is before (the data, the plan) and after (judging) is the same for any number of jobs.
    """
    err = out.with_suffix(".err")
    how = ("--device", "cpu", "--jobs", jobs, *(["--exact"] if exact else []))
    command = start("run", file, "--out", out, *how, err=err)
    began = ended = 0.0
    end = time.monotonic() + LONGEST
    while not command.ends(0.01) and time.monotonic() < end:
        said = err.read_text()
        now = time.monotonic()
        began = began or (now if " runs to train, into " in said else 0.0)
        ended = ended or (now if ": done in " in said else 0.0)
    if command.popen.returncode not in DONE:
        raise RuntimeError(f"{file} ended with {command.popen.returncode}: {err.read_text()[-2000:]}")
    return (ended or time.monotonic()) - began


def _trained(out: Path) -> pd.Series:
    """Return the seconds that each run took."""
    return _runs(out)["wall_seconds"]


def _idle(out: Path) -> float:
    """Return the seconds in which jobs had no run left, from the end of their last one to that of the last of all."""
    runs = _runs(out)
    ends = (runs["started_at"] + pd.to_timedelta(runs["wall_seconds"], unit="s")).nlargest(JOBS)
    return float((ends.max() - ends).dt.total_seconds().sum())


def _runs(out: Path) -> pd.DataFrame:
    (folder,) = (each for each in out.iterdir() if each.is_dir())
    return pd.read_parquet(folder / "runs")
