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
TRIAL_STEPS = 200
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
    one, two = (_seconds(demo, place / f"jobs-{jobs}", jobs) for jobs in (1, JOBS))
    measured = f"{one / two:.2f} ({one:.0f} s and {two:.0f} s)"
    yield Line(f"--jobs {JOBS} beside --jobs 1, demo sweep", f"at least {GAIN} times", measured, one / two >= GAIN)

    # as long as it should take, from how long a short one takes
    trial = write_sweep_file(place / "trial.toml", lrs="[0.01]", seeds=JOBS, steps=TRIAL_STEPS)
    _seconds(trial, place / "trial", JOBS)
    a_step = _trained(place / "trial").max() / TRIAL_STEPS
    long = write_sweep_file(place / "long.toml", lrs="[0.01]", seeds=4 * JOBS, steps=round(run_seconds / a_step))
    wall = _seconds(long, place / "long", JOBS)
    trained = _trained(place / "long")
    share = wall / (trained.sum() / JOBS) - 1
    says = f"engine beside {len(trained)} runs of {trained.mean():.1f} s, {JOBS} jobs"
    yield Line(says, f"at most {OVERHEAD:.0%}", f"{share:.1%} ({wall:.1f} s)", share <= OVERHEAD)


def _seconds(file: Path, out: Path, jobs: int) -> float:
    """Run a sweep file, each run alone, and return how long it trained, as its last line says from its first.

    What is before (importing torch) and after (judging) is that of any command, with or without an engine.
    """
    err = out.with_suffix(".err")
    # both times in processes of their own: --jobs 1 trains in the command's
    command = start("run", file, "--out", out, "--device", "cpu", "--jobs", jobs, "--exact", err=err)
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
    (folder,) = (each for each in out.iterdir() if each.is_dir())
    return pd.read_parquet(folder / "runs")["wall_seconds"]
