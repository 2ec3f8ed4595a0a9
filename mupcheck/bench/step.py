"""A whole training step: replicas in one step as `train` runs them, against loops that train one run after another."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from mupcheck.bench import floors
from mupcheck.bench.fla_model import copy_weights, fla_model
from mupcheck.bench.peers import fla_version
from mupcheck.bench.plain_loop import FirstSteps, PlainLoop, plain_loop
from mupcheck.bench.rows import (
    ALLOWED_NATS,
    ALLOWED_NATS_OF_PEERS,
    ALLOWED_NORM,
    Machine,
    Row,
    Timing,
    disagreement,
    short,
)
from mupcheck.bench.timing import summary, take_turns
from mupcheck.model.build import build_model
from mupcheck.spec.reading import make_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.training.data.batches import train_batch
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import train

GPU_WIDTHS, CPU_WIDTHS = (256, 512, 1024, 1536), (64,)
# replicas that fit beside each other and pay; half as many where memory runs out
REPLICAS = {256: 16, 512: 14, 1024: 8, 1536: 2}
CHECKED_STEPS = 4


@dataclass(frozen=True)
class Setting:
    """What is trained: the issue's model on a GPU, a small one on a CPU."""

    device: str
    dtype: str
    n_layers: int
    batch_size: int
    seq_len: int
    # steps whose numbers come to the host together (on a GPU the ring of the training loop), and how many such bursts
    # are timed
    burst: int
    bursts: int

    @property
    def tokens(self) -> int:
        """Return the tokens of a step of one run."""
        return self.batch_size * self.seq_len


GPU = Setting("cuda", "bfloat16", 8, 8, 1024, burst=64, bursts=3)
CPU = Setting("cpu", "float32", 2, 4, 128, burst=1, bursts=5)


def quick(setting: Setting) -> Setting:
    """Return a setting that times one burst."""
    return replace(setting, bursts=1)


def head_of(width: int) -> tuple[int, int, int]:
    """Return (H, K, V) of a width: 6 heads of K = d / 8 and V = d / 4, twice as many of half that beyond K = 256."""
    heads, key_dim = 6, width // 8
    while key_dim > 256 and key_dim % 2 == 0:
        heads, key_dim = 2 * heads, key_dim // 2
    return heads, key_dim, 2 * key_dim


def runs_of(setting: Setting, width: int, backend: str, *, n: int, **changes: Any) -> list[RunSpec]:
    """Return n runs that differ in their seed: heads of `head_of`, clipped AdamW, every multiplier 1.

    Logits have size 1 and the lr falls as width grows: the first steps move the loss by more than twice what is
    allowed, and rounding by a few thousandths of a nat; at a large lr rounding would grow from step to step.
    """
    heads, key_dim, value_dim = head_of(width)
    given = {
        "kind": "lr", "parametrizations": ["sp-fanin"], "widths": [width], "base_width": width, "seeds": n,
        "lrs": [2.0**-6 / width], "n_layers": setting.n_layers, "n_heads": heads, "head_k_dim": key_dim,
        "head_v_dim": value_dim, "batch_size": setting.batch_size, "seq_len": setting.seq_len, "steps": 1,
        "warmup_steps": 0, "schedule": "constant", "logit_scale": 1.0, "clip": 1.0, "readout_std": width**-0.5,
        "eval_tokens": 0, "data": "synthetic", "dtype": setting.dtype, "backend": backend,
    }  # fmt: skip
    sweep = make_sweep({**given, **changes}, device=setting.device)
    return list(sweep.runs(vocab_size=256, data_hash=""))


def measure_steps(
    setting: Setting, widths: Sequence[int], backends: Sequence[str], machine: Machine, *, peers: bool, seconds: float
) -> Iterator[Row]:
    """Measure a step at each width, of each backend and of loops around one run, and yield their rows."""
    corpus = open_corpus("synthetic", vocab_size=256)
    for width in widths:
        try:
            right, dtype = _right(setting, width, corpus)
        except (ValueError, RuntimeError) as error:
            yield Row("step", f"d={width}", "float64", True, refused=short(error))
            continue
        n = REPLICAS.get(width, max(2, 2**17 // setting.tokens // max(width // 256, 1)))
        n = n if setting.device != "cpu" else 4
        for backend in backends:
            checked = Row("step", f"d={width}", f"mupcheck {backend}", True)
            try:
                # float32 shows what bfloat16's rounding would hide
                for each in dict.fromkeys(("float32", setting.dtype)):
                    found = _first_steps(
                        runs_of(setting, width, backend, n=1, **_checked(each)), corpus, setting.device
                    )
                    errors, refused = _agree(found, right, each)
                    if refused and each != setting.dtype:
                        refused = f"in {each} {refused}"
                    checked = replace(checked, errors=errors, refused=checked.refused or refused)
            except (ValueError, RuntimeError) as error:
                checked = replace(checked, refused=short(error))
            for count in (n, 1):
                row = checked if checked.refused else _replicated(checked, setting, width, backend, count, corpus)
                yield _shared(row, setting, width, machine, dtype)
                if checked.refused:
                    break
        loops: dict[str, Callable[[list[RunSpec]], PlainLoop]] = {
            f"mupcheck {backends[0]}, plain eager loop": partial(_own_loop, corpus=corpus, device=setting.device)
        }
        if peers and setting.device != "cpu" and (version := fla_version()):
            loops[f"FLA {version}"] = partial(_fla_loop, corpus=corpus, device=setting.device)
        for name, make in loops.items():
            for row in _looped(setting, width, backends[0], name, make, corpus, right, seconds):
                yield _shared(row, setting, width, machine, dtype)


def _right(setting: Setting, width: int, corpus: Corpus) -> tuple[FirstSteps, str]:
    """Return the first steps in float64, and that; in float32 where there is no room for float64."""
    for dtype in ("float64", "float32"):
        try:
            runs = runs_of(setting, width, "chunk", n=1, **_checked(dtype))
            return _first_steps(runs, corpus, setting.device), dtype
        except torch.OutOfMemoryError:
            _clean(setting.device)
    raise torch.OutOfMemoryError(f"no room for a step in float32 at d={width}")


def _checked(dtype: str) -> dict[str, Any]:
    """Return what the steps have that are compared with float64: one sequence."""
    return {"dtype": dtype, "batch_size": 1, "steps": CHECKED_STEPS}


def _first_steps(runs: list[RunSpec], corpus: Corpus, device: str) -> FirstSteps:
    rows = list(train(runs, corpus, device=device))
    _clean(device)
    return FirstSteps([row.loss[0] for row in rows], rows[0].grad_norm[0])


def _agree(
    found: FirstSteps, right: FirstSteps, dtype: str, nats: dict[str, float] = ALLOWED_NATS
) -> tuple[dict[str, float], str | None]:
    """Return each loss's difference in nats and the first gradient norm's, relative, and what is too large."""
    errors = {f"loss {i}": abs(a - b) for i, (a, b) in enumerate(zip(found.losses, right.losses, strict=True))}
    allowed = dict.fromkeys(errors, nats[dtype]) | {"gradient norm": ALLOWED_NORM[dtype]}
    errors["gradient norm"] = abs(found.norm / right.norm - 1)
    return errors, disagreement(errors, allowed)


def _replicated(checked: Row, setting: Setting, width: int, backend: str, n: int, corpus: Corpus) -> Row:
    """Measure `train` with n replicas, fewer where memory runs out."""
    row = replace(checked, backend=f"{checked.backend}, R={n}", facts={"R": n})
    try:
        _start_counting(setting.device)
        steps = setting.burst * (1 + setting.bursts) + (setting.device == "cpu")
        runs = runs_of(setting, width, backend, n=n, steps=steps)
        seconds = _bursts(runs, corpus, setting)
        row = replace(row, times=_of_replicas(seconds, n), peak_bytes=_counted(setting.device))
    except torch.OutOfMemoryError:
        if n == 1:
            return replace(row, refused="out of memory")
        _clean(setting.device)
        return _replicated(checked, setting, width, backend, n // 2, corpus)
    except (ValueError, RuntimeError) as error:
        return replace(row, refused=short(error))
    finally:
        _clean(setting.device)
    return row


def _bursts(runs: list[RunSpec], corpus: Corpus, setting: Setting) -> list[float]:
    """Return seconds a step, a number for each burst of steps after the first, which compiles and captures."""
    marks = []
    for _ in train(runs, corpus, device=setting.device):
        marks.append(time.perf_counter())
    ends = marks[setting.burst - 1 :: setting.burst]
    return [(after - before) / setting.burst for before, after in pairwise(ends)]


def _of_replicas(seconds: list[float], n: int) -> dict[str, Timing]:
    return {"step": summary(seconds), "a run": summary([each / n for each in seconds])}


def _looped(
    setting: Setting,
    width: int,
    backend: str,
    name: str,
    make: Callable[[list[RunSpec]], PlainLoop],
    corpus: Corpus,
    right: FirstSteps,
    seconds: float,
) -> Iterator[Row]:
    """Measure a plain loop, eager and in a CUDA graph: a row each."""
    names = {"eager": name if "eager" in name else f"{name}, eager"}
    if setting.device != "cpu":
        names["graph"] = f"{name.removesuffix(', plain eager loop')}, CUDA graph"
    rows = {key: Row("step", f"d={width}", each, False, facts={"R": 1}) for key, each in names.items()}
    try:
        (one,) = runs_of(setting, width, backend, n=1, **_checked(setting.dtype))
        batches = [_batch(one, corpus, step) for step in range(CHECKED_STEPS)]
        _start_counting(setting.device)
        loop = make(runs_of(setting, width, backend, n=1))
        errors, refused = _agree(loop.first_steps(batches), right, setting.dtype, ALLOWED_NATS_OF_PEERS)
        rows = {key: replace(row, errors=errors, refused=refused) for key, row in rows.items()}
        if refused is None:
            found = take_turns({"eager": loop.step}, setting.device, seconds=seconds)["eager"]
            rows["eager"] = replace(
                rows["eager"], times={"step": found, "a run": found}, peak_bytes=_counted(setting.device)
            )
            if "graph" in rows:
                found = take_turns({"graph": loop.graph()}, setting.device, seconds=seconds)["graph"]
                rows["graph"] = replace(
                    rows["graph"], times={"step": found, "a run": found}, peak_bytes=_counted(setting.device)
                )
    except Exception as error:  # a peer may fail in any way
        rows = {key: row if row.times else replace(row, refused=short(error)) for key, row in rows.items()}
    _clean(setting.device)
    yield from rows.values()


def _own_loop(runs: list[RunSpec], *, corpus: Corpus, device: str) -> PlainLoop:
    model = build_model(runs, device)
    return plain_loop(model, lambda tokens: model(tokens[None]), runs[0], _batch(runs[0], corpus, 0), device)


def _fla_loop(runs: list[RunSpec], *, corpus: Corpus, device: str) -> PlainLoop:
    model = fla_model(runs[0], device)
    copy_weights(model, build_model(runs, device))
    return plain_loop(model, model, runs[0], _batch(runs[0], corpus, 0), device)


def _batch(run: RunSpec, corpus: Corpus, step: int) -> Any:
    return train_batch(corpus, seed=run.seed, step=step, batch_size=run.batch_size, seq_len=run.seq_len)


def _shared(row: Row, setting: Setting, width: int, machine: Machine, compared_with: str) -> Row:
    """Say of a row which share of the machine's products its step's own are."""
    heads, key_dim, value_dim = head_of(width)
    flops = setting.tokens * floors.step_flops(
        width, n_layers=setting.n_layers, n_heads=heads, key_dim=key_dim, value_dim=value_dim, vocab=256, mlp=4
    )
    facts = {**row.facts, "tokens": setting.tokens, "flops": flops, "layers": setting.n_layers, "dtype": setting.dtype}
    facts["compared with"] = compared_with
    shares = {"a run": flops / machine.flops_per_second / row.times["a run"].median} if row.times else {}
    return replace(row, facts=facts, shares=shares)


def _start_counting(device: str) -> None:
    _clean(device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def _counted(device: str) -> int | None:
    return None if device == "cpu" else int(torch.cuda.max_memory_allocated())


def _clean(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
