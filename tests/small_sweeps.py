"""Two small sweeps as files, and the command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from commands import Answer

REPOSITORY = Path(__file__).parents[1]
COMMANDS = (
    *("coord", "lr-sweep", "run", "judge", "plot", "report", "check", "rules", "doctor"),
    *("identities", "gates", "explain", "selftest", "recommend", "bench", "audit", "roles", "compact", "status", "ls"),
    "diff",
)
# on the CPU and in this process, wherever the tests run
HERE = ("--device", "cpu", "--jobs", "1")
SMALL = (*["--data", "synthetic", "--widths", "16,32", "--layers", "1", "--heads", "2", "--seeds", "1"], *HERE)
COORD = """
# Does it fail?
question = "Does SP fail?"
kind = "coord"
data = "synthetic"
widths = [16, 32, 64]
parametrizations = ["sp"]
seeds = 3
n_layers = 1
n_heads = 2
record = [0, 1]
"""
LR = """
# Does it run?
kind = "lr"
data = "synthetic"
widths = [16, 32]
parametrizations = ["gdn-mup"]
lrs = "2^-8:2^-6:2"
seeds = 1
steps = 3
warmup_steps = 0
batch_size = 2
seq_len = 8
eval_tokens = 16
"""


def process(*arguments: object, **environment: str) -> Answer:
    """Run the command line in a process of its own, behind pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "mupcheck", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path under a folder with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
