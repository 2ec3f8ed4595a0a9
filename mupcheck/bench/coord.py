"""A coordinate check, from its spec to its verdict, beside the one of microsoft/mup on a model of the same shapes."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mupcheck.bench import mup_check
from mupcheck.bench.peers import mup_version
from mupcheck.bench.rows import Row, short
from mupcheck.bench.timing import summary
from mupcheck.coordinates.judge import judge
from mupcheck.spec.reading import make_sweep
from mupcheck.sweep.runner import run_sweep
from mupcheck.training.train import one_thread

GPU_WIDTHS, CPU_WIDTHS = (256, 512, 1024), (64, 128, 256, 512)
SEEDS, STEPS, ROUNDS = 4, 4, 3


def measure_checks(device: str, widths: Sequence[int], *, rounds: int, peers: bool) -> Iterator[Row]:
    """Measure both checks in turn, 4 seeds and 4 steps at each width, and yield their rows.

    Ours trains in this process, records every quantity at each step, writes it, compares the backend with the
    recurrence, and judges; the peer's records l1 of outputs alone. On a CPU each has one thread. The first round is not
    counted: it imports and starts what later ones find there.
    """
    checks: dict[str, Callable[[], int]] = {"mupcheck coord": lambda: _ours(device, widths)}
    failed: list[Row] = []
    row = Row("coord", f"widths {','.join(map(str, widths))}, {SEEDS} seeds, {STEPS} steps", "", False)
    if peers and (version := mup_version()):
        name = f"mup {version}, output l1"
        try:
            shapes = mup_check.base_shapes(widths)
            checks[name] = lambda: mup_check.check(widths, shapes, seeds=SEEDS, steps=STEPS, on_gpu=device != "cpu")
        except Exception as error:  # a peer may fail in any way
            failed.append(replace(row, backend=name, refused=short(error)))
    seconds: dict[str, list[float]] = {name: [] for name in checks}
    numbers: dict[str, int] = {}
    for turn in range(1 + rounds):
        for name in list(seconds):
            try:
                with one_thread():
                    start = time.perf_counter()
                    numbers[name] = checks[name]()
                    taken = time.perf_counter() - start
            except Exception as error:
                failed.append(replace(row, backend=name, own=name == "mupcheck coord", refused=short(error)))
                del seconds[name]
                continue
            if turn:
                seconds[name].append(taken)
    for name, each in seconds.items():
        times = {"check": summary(each), "number": summary([one / numbers[name] for one in each])}
        yield replace(row, backend=name, own=name == "mupcheck coord", times=times, facts={"numbers": numbers[name]})
    yield from failed


def _ours(device: str, widths: Sequence[int]) -> int:
    """Run and judge a check from nothing and return how many numbers it recorded."""
    spec = {"kind": "coord", "widths": list(widths), "seeds": SEEDS, "record": [*range(STEPS)], "top_up": False}
    with tempfile.TemporaryDirectory() as folder:
        results = run_sweep(make_sweep(spec, device=device), out=folder, device=device, jobs=1)
        judge(results)
        return len(results.coords)
