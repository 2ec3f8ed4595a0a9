"""The path that a sweep trains, compared with the reference once a sweep: what is compared, and what is written of it.

The models start as the sweep's do and see its first batch, at the sweep's sequence length and, where that is short, at
one that crosses chunks: at the smallest and the widest width, and between them at the longer of the two wherever heads
have another size, as a kernel may be chosen by it. Bounds on each keep it to about a second.

Nothing else of the long sequence is recorded: all that its length adds to the sizes at step 0 is the delta rule, which
is compared value by value here, while sizes of one seed could not be judged.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mupcheck.results.path import BY, QUANTITIES, Departure
from mupcheck.results.reading import read_sweep
from mupcheck.results.writing import write_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import count_parameters
from mupcheck.sweep.plan import Plan
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus

if TYPE_CHECKING:
    from mupcheck.measuring.path import Error, Picked

MAX_LAYERS = 4  # the first ones; they start as in the whole model
MAX_BETWEEN = 4  # widths between the smallest and the widest
MAX_PAIRS = 4  # of a sequence and a head, of each layer
FEWER_PAIRS = 2  # at a width between
MAX_ENTRIES = 8
INF = float("inf")


@dataclass(frozen=True)
class Bounds:
    """What a comparison may take: values of a model, tokens through the backend, values of the reference's states.

    Shapes are compared together as far as their states stay below `together`: below it calls cost more than sums.
    """

    model: int
    tokens: int
    states: int
    together: int = 0


CPU, CUDA = Bounds(3 * 2**23, 2**11, 2**24, 2**22), Bounds(2**26, 2**14, 2**29, 2**29)


@dataclass(frozen=True)
class PathTask:
    """Runs whose models are compared: of each width one of every table, replicas of one model.

    Attributes:
        again: whether to compare where `sweep.json` says how it came out already.
    """

    groups: tuple[tuple[RunSpec, ...], ...]
    again: bool

    @property
    def run_ids(self) -> list[str]:
        """Return the run_ids by which an entry knows its sweep."""
        return [run.run_id for group in self.groups for run in group]


def path_task(plan: Plan) -> PathTask:
    """Return what to compare of a plan, of the widths whose models may be built; the smallest is one in any case."""
    # those that every round of a refinement or a top-up has
    alike = [run for run in plan.runs if (run.lr, run.seed) == (plan.sweep.lrs[0], plan.sweep.seeds[0])]
    widths = sorted({run.width for run in alike})
    groups = {width: tuple(run for run in alike if run.width == width) for width in widths}
    bounds = _bounds(plan.device)
    widths = widths[:1] + [w for w in widths[1:] if _layers(groups[w][0], len(groups[w]), bounds)]
    by_heads = {groups[width][0].heads[1:]: width for width in reversed(widths)}  # the smallest of a head size
    between = sorted(set(by_heads.values()) - {widths[0], widths[-1]})
    step = max(-(-len(between) // MAX_BETWEEN), 1)
    chosen = dict.fromkeys((widths[0], *between[::step], widths[-1]))
    return PathTask(tuple(groups[width] for width in chosen), again=plan.missing == len(plan.runs))


def _bounds(device: str) -> Bounds:
    return CPU if device == "cpu" else CUDA


def _layers(run: RunSpec, replicas: int, bounds: Bounds) -> int:
    """Return how many layers of a model to build, 0 where one is beyond bounds."""
    for n_layers in range(min(run.n_layers, MAX_LAYERS), 0, -1):
        if replicas * count_parameters(run.model_copy(update={"n_layers": n_layers})) <= bounds.model:
            return n_layers
    return 0


def compare_path(
    group: tuple[PathTask], *, folder: Path, corpus: Corpus | None, device: str, provenance: Mapping[str, Any]
) -> Iterator[int]:
    """Compare the backend of a sweep with the reference and write how it came out; yields no steps.

    What goes wrong here, memory first, is written too: it is the comparison's fault and not the sweep's.
    """
    from mupcheck.sweep.group import device_name
    from mupcheck.training.train import one_thread

    (task,) = group
    by = {**provenance, "device": device_name(device)}
    by = {name: by[name] for name in BY}
    if not task.again and any(_same(entry, task, by) for entry in kept_paths(folder, task.run_ids)):
        return
    start = perf_counter()
    if device != "cpu":
        import torch

        torch.cuda.set_device(device)
    run = task.groups[0][0]
    entry: dict[str, Any] = {"backend": run.backend, "dtype": run.dtype, **by, "run_ids": task.run_ids}
    try:
        corpus = corpus or open_corpus(run.data, vocab_size=run.vocab_size)
        with one_thread() if device == "cpu" else nullcontext():
            entry |= _compared(task, corpus, device)
    except (MemoryError, RuntimeError, ValueError) as error:
        entry |= {"reason": " ".join(str(error).split())[:200] or type(error).__name__}
    finally:
        _free(device)
    write_path(folder, entry | {"seconds": round(perf_counter() - start, 3)})
    yield from ()


def _free(device: str) -> None:
    """Give back what the device's allocator holds, as the runs need it."""
    if device != "cpu":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _compared(task: PathTask, corpus: Corpus, device: str) -> dict[str, Any]:
    """Return the part of an entry that says how the backend compares."""
    import torch

    from mupcheck.measuring.path import LONG, capture, errors_of, strained, through_backend, tolerance_of
    from mupcheck.model.build import build_model
    from mupcheck.training.data.batches import train_batch
    from mupcheck.training.train import autocast

    bounds = _bounds(device)
    tolerance = tolerance_of(task.groups[0][0].dtype)
    picked: list[Picked] = []
    shapes: list[tuple[RunSpec, dict[str, Any]]] = []
    for i, group in enumerate(task.groups):
        run, (_, k_dim, v_dim) = group[0], group[0].heads
        n_layers = _layers(run, len(group), bounds) or 1
        model = build_model([each.model_copy(update={"n_layers": n_layers}) for each in group], device)
        longest = max(LONG, MAX_PAIRS * bounds.states // (k_dim * v_dim))
        lengths = _lengths(run.seq_len, longest, len(corpus.train) - 1, LONG)
        at_an_end = i in (0, len(task.groups) - 1)
        for length in lengths if at_an_end else lengths[-1:]:
            rows = max(1, min(run.batch_size // run.accumulation, bounds.tokens // (length * len(group))))
            batch = train_batch(corpus, seed=run.seed, step=0, batch_size=rows, seq_len=length)[:, :-1]
            tokens = torch.from_numpy(batch).to(device).expand(len(group), -1, -1)
            # of one pair of one layer; as many layers as may be, then as many pairs
            states = length * k_dim * v_dim
            calls = capture(model, tokens, autocast(run, device))[: max(1, bounds.states // states)]
            pairs = min(MAX_PAIRS if at_an_end else FEWER_PAIRS, max(1, bounds.states // (len(calls) * states)))
            shape: dict[str, Any] = {
                "width": run.width,
                "tokens": length,
                "sequences": rows * len(group),
                "pairs": pairs,
            }
            shapes.append((run, shape))
            picked.append(through_backend(calls, pairs, autocast(run, device)))
        if i == 0:  # it holds of the kernel, and once will do
            shapes.append((run, {**shape, "strained": True}))
            picked.append(through_backend(strained(calls), pairs, autocast(run, device)))
    compared: list[dict[str, Any]] = []
    departures: list[Departure] = []
    alike: list[Departure] = []
    of_each = errors_of(picked, together=bounds.together)
    for (run, shape), errors in zip(shapes, of_each, strict=True):
        found = [_departure(each, run, shape["tokens"], tolerance) for each in errors if each.departs(tolerance)]
        if shape.pop("strained", False):
            alike += found
            continue
        departures += found
        shape["layers"] = len({each.layer for each in errors})
        by_what = {what: max(each.error for each in errors if each.what == what) for what in QUANTITIES}
        shape["errors"] = {what: error if error < INF else None for what, error in by_what.items()}
        finite = [each.error for each in errors if each.error < INF]
        compared.append(shape | {"error": max(finite, default=None)})
    return {
        "tolerance": tolerance,
        "error": max((each["error"] for each in compared if each["error"] is not None), default=None),
        "compared": compared,
        "departures": [asdict(each) for each in sorted(departures, key=_first_to_look_at)],
        "strained": [asdict(each) for each in sorted(alike, key=_first_to_look_at)],
    }


def _lengths(seq_len: int, longest: int, there: int, long: int) -> list[int]:
    """Return the lengths to compare at: the sweep's, as far as it may be, and a long one where that is short."""
    lengths = [min(seq_len, longest)]
    if seq_len < long and min(long, there) > seq_len:
        lengths.append(min(long, there))
    return lengths


def _first_to_look_at(departure: Departure) -> tuple[int, ...]:
    return departure.tokens, QUANTITIES.index(departure.what), departure.width, departure.layer


def _departure(error: "Error", run: RunSpec, tokens: int, tolerance: float) -> Departure:
    from mupcheck.ops.chunk import chunking

    off = error.departing(tolerance)
    finite = error.error < INF
    scaled = finite and error.rest <= tolerance
    chunks = None
    if off and run.backend == "chunk":
        n_chunks, size = chunking(tokens)
        chunks = (off[0] // size + 1, off[-1] // size + 1, n_chunks)
    return Departure(
        what=error.what,
        width=run.width,
        layer=error.layer,
        tokens=tokens,
        error=error.error if finite else None,
        first=off[0] if off else None,
        last=off[-1] if off else None,
        chunks=chunks,
        factor=error.factor if scaled else None,
        missing=error.missing,
    )


def kept_paths(folder: Path, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries that `sweep.json` has of runs of a plan; none where it is not there or cannot be read."""
    entries: Any = ()
    with suppress(ValueError):
        entries = read_sweep(folder).get("path", ())
    asked = set(run_ids)
    return [each for each in entries if isinstance(each, dict) and asked & set(each.get("run_ids", ()))][-MAX_ENTRIES:]


def write_path(folder: Path, entry: Mapping[str, Any]) -> None:
    """Write an entry into `sweep.json`, in place of one of the same runs, device and versions.

    Raises:
        ValueError: if there is no `sweep.json` to write it into.
        StoreError: if it cannot be written.
    """
    resolved = read_sweep(folder)
    others = [each for each in resolved.get("path", ()) if any(each.get(name) != entry.get(name) for name in KEY)]
    write_sweep(folder, resolved | {"path": [*others, dict(entry)]})


KEY = ("run_ids", *BY)


def _same(entry: Mapping[str, Any], task: PathTask, by: Mapping[str, Any]) -> bool:
    """Say whether an entry compared just this, on this device by these versions."""
    known = {**by, "run_ids": task.run_ids}
    return not entry.get("reason") and all(entry.get(name) == value for name, value in known.items())
