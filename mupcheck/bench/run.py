"""One run of `mupcheck bench`: the suites one after another on one device, with provenance."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mupcheck.bench import coord, op, peers, step
from mupcheck.bench.rows import Bench, Machine, Row, short
from mupcheck.bench.tables import as_markdown
from mupcheck.bench.timing import ceilings
from mupcheck.ops.choice import check_triton
from mupcheck.sweep.provenance import provenance

SUITES = ("op", "step", "coord")
BACKENDS = {"cuda": ("triton", "chunk"), "cpu": ("chunk", "reference")}
# seconds for each call that is timed
SECONDS, QUICK_SECONDS = 0.4, 0.1


def pick_device(asked: str) -> str:
    """Return "cpu" or "cuda:i"; "auto" is the first GPU where there is one.

    Raises:
        ValueError: if there is no such device.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cpu":
        return asked
    kind, _, index = asked.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise ValueError(f"device {asked!r} is unknown; try auto, cpu, cuda or cuda:1")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise ValueError(f"device {asked!r} is not here: torch sees {found} GPUs; try cpu")
    return f"cuda:{index or 0}"


def run_bench(
    suites: Sequence[str],
    device: str,
    *,
    backends: Sequence[str] = (),
    shapes: Sequence[tuple[int, int]] = (),
    widths: Sequence[int] = (),
    quick: bool = False,
    with_peers: bool = True,
    scaling: bool = False,
    follow: Callable[[Bench], object] = bool,
) -> Bench:
    """Run suites on a device from `pick_device` and return all rows.

    Args:
        suites: of SUITES.
        device: "cpu" or "cuda:i".
        backends: of the delta rule; left out, those that suit the device.
        shapes: (K, V) of the op; left out, the paper's on a GPU, one on a CPU.
        widths: of the step and of the coordinate check; left out, those that suit the device.
        quick: time each call for a tenth of a second, and fewer steps.
        with_peers: measure what other libraries there are.
        scaling: as many sequences of 256 to 8,192 tokens for the op, widths up to 4,096 for the step.
        follow: called with what there is after each row.
    Raises:
        ValueError: if a width is no multiple of 8, or triton is asked for and cannot be.
    """
    if wrong := [width for width in widths if width < 8 or width % 8]:
        raise ValueError(f"width {wrong[0]} gives no whole heads K = d / 8; try {max(wrong[0] // 8 * 8, 8)}")
    kind = "cpu" if device == "cpu" else "cuda"
    if "triton" in backends:
        heads = [*shapes, *(step.head_of(width)[1:] for width in widths)]
        check_triton(device, "bfloat16" if kind == "cuda" else "float32", heads or [(32, 64)])
    if kind == "cuda":
        torch.cuda.set_device(device)
    seconds = QUICK_SECONDS if quick else SECONDS
    backends = tuple(backends) or BACKENDS[kind]
    bench = Bench(_provenance(kind, quick=quick), ceilings(kind, seconds=seconds), [])
    for suite in suites:
        found = _SUITES[suite](
            kind, backends, bench.machine, shapes=shapes, widths=widths, quick=quick, peers=with_peers, scaling=scaling,
            seconds=seconds,
        )  # fmt: skip
        for row in _until_it_breaks(suite, found):
            bench.rows.append(row)
            follow(bench)
    return bench


def _until_it_breaks(suite: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows; what ends them, such as a device that fails, becomes the last one."""
    try:
        yield from rows
    except RuntimeError as error:
        yield Row(suite, "all that would follow", "stopped", True, refused=short(error))


def write(bench: Bench, folder: Path) -> tuple[Path, Path]:
    """Write bench.json and bench.md into a folder, which is made, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    document, page = folder / "bench.json", folder / "bench.md"
    document.write_text(json.dumps(bench.as_json(), indent=1) + "\n", encoding="utf-8")
    page.write_text(as_markdown(bench), encoding="utf-8")
    return document, page


def _op(kind: str, backends: Sequence[str], machine: Machine, **given: Any) -> Iterator[Row]:
    shapes = given["shapes"] or (op.GPU_SHAPES if kind == "cuda" else op.CPU_SHAPES)
    if given["scaling"]:  # the recurrence takes its time at each step, and shapes are compared without it
        shapes, backends = given["shapes"] or op.SCALED_SHAPES, [each for each in backends if each != "reference"]
    batch, time = op.GPU_BATCH if kind == "cuda" else op.CPU_BATCH
    if given["quick"] and kind == "cpu":
        batch, time = 1, 256
    lengths = op.LENGTHS if given["scaling"] else (time,)
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    cases = [op.Case(batch, t, k, v, kind, dtype) for k, v in shapes for t in lengths]
    others = peers.op_peers(kind) if given["peers"] else []
    return op.measure_ops(cases, backends, others, machine, seconds=given["seconds"])


def _step(kind: str, backends: Sequence[str], machine: Machine, **given: Any) -> Iterator[Row]:
    setting = step.GPU if kind == "cuda" else step.CPU
    widths = given["widths"] or (step.GPU_WIDTHS if kind == "cuda" else step.CPU_WIDTHS)
    if given["scaling"] and not given["widths"]:
        widths = (*widths, *((2048, 4096) if kind == "cuda" else (128, 256)))
    if given["quick"]:
        setting = step.quick(setting)
    return step.measure_steps(
        setting, widths, backends[:1], machine, peers=given["peers"], seconds=4 * given["seconds"]
    )


def _coord(kind: str, _: Sequence[str], __: Machine, **given: Any) -> Iterator[Row]:
    widths = coord.GPU_WIDTHS if kind == "cuda" else coord.CPU_WIDTHS
    widths = given["widths"] or (widths[:3] if given["quick"] else widths)
    return coord.measure_checks(kind, widths, rounds=1 if given["quick"] else coord.ROUNDS, peers=given["peers"])


_SUITES: dict[str, Callable[..., Iterator[Row]]] = {"op": _op, "step": _step, "coord": _coord}


def _provenance(kind: str, *, quick: bool) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if kind == "cuda" else _cpu()
    return {
        "device": name,
        "threads": torch.get_num_threads() if kind == "cpu" else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        **provenance(),
        "cuda": torch.version.cuda,
        "peers": peers.versions(),
    }


def _cpu() -> str:
    """Return the name of the processor, as far as Linux says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
