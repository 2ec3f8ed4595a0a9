"""`make gpu-check` does all of its parts, and fails where one does; tried with a python that only pretends."""

import shutil
import subprocess
from pathlib import Path

import pytest

PARTS = ("doctor", "tests", "demo_coord", "demo_lr", "plot", "bench")
ROOT = Path(__file__).parents[2]
PRETENDS = """#!/bin/sh
case "$*" in
    *{part}*) exit {code} ;;
esac
"""


def gpu_check(tmp_path: Path, part: str = "nothing", code: int = 0) -> subprocess.CompletedProcess:
    python = tmp_path / "python"
    python.write_text(PRETENDS.format(part=part, code=code))
    python.chmod(0o755)
    command = ["make", "gpu-check", f"GPU_PYTHON={python}", f"RESULTS={tmp_path}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("part", "code", "good"),
    [
        ("nothing", 0, True),
        ("demo_lr.toml", 3, True),  # cannot tell, which is an answer
        ("demo_lr.toml", 1, False),
        ("pytest", 1, False),
        ("pytest", 3, False),
        ("bench", 1, False),
    ],
)
def test_every_part_runs_and_a_failure_fails_the_whole(tmp_path, part, code, good):
    done = gpu_check(tmp_path, part, code)
    assert (done.returncode == 0) is good
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ": exit code " in line] == list(PARTS)
    assert (tmp_path / "gpu-check" / "doctor.json").exists()
    assert ("failed:" in done.stdout) is not good
