"""What replicas save, what recording costs and what speeds a CPU up: python tests/benchmark.py [--device cuda].

Medians over rounds in which the things compared take turns, so that a busy machine slows both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F

from mupcheck.ops import gated_delta_rule, products
from mupcheck.spec.reading import make_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.machine import memory_kept
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import train

ROUNDS, STEPS = 5, 12


def seconds(runs: list[RunSpec], device: str) -> float:
    """Return the median time of a training step after the first two."""
    times, last = [], None
    for _ in train(runs, CORPUS, device=device):
        if device != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter() if device != "cpu" else time.thread_time()  # what else runs beside it is left out
        if last is not None:
            times.append(now - last)
        last = now
    return statistics.median(times[1:])


def compare(cases: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return each case's median over rounds in which all take turns."""
    rounds = [{name: case() for name, case in cases.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(each[name] for each in rounds) for name in cases}


def replicas(device: str) -> None:
    """Compare one step of 8 replicas with 8 steps of one."""
    for width in (32, 64, 128):
        grid = {"kind": "lr", "widths": [width], "parametrizations": ["gdn-mup"], "lrs": [0.01], "seeds": 8}
        runs = make_sweep({**grid, "data": "synthetic", "steps": STEPS, "eval_tokens": 0}).runs(**SOURCE)
        found = compare({"together": partial(seconds, runs, device), "alone": partial(seconds, runs[:1], device)})
        together, alone = 1e3 * found["together"], 8e3 * found["alone"]
        ratio = alone / together
        print(f"width {width}: 8 replicas {together:.1f} ms a step, 8 single runs {alone:.1f} ms: x {ratio:.2f}")


def recording(device: str) -> None:
    """Compare recorded steps with unrecorded ones, in the coordinate check's own shape and in a training step's."""
    for width, batch in ((64, (1, 16)), (256, (1, 16)), (512, (1, 16)), (128, (8, 48))):
        grid = {"kind": "coord", "widths": [width], "base_width": 64, "seeds": 4, "data": "synthetic"}
        grid |= {"steps": STEPS - 1, "batch_size": batch[0], "seq_len": batch[1]}
        runs = make_sweep({**grid, "record": [*range(STEPS)]}).runs(**SOURCE)
        cases = {}
        for probes in ("none", "activations", "full"):
            fields = [{name: getattr(run, name) for name in RunSpec.model_fields} for run in runs]
            cases[probes] = partial(seconds, [RunSpec(**(each | {"probes": probes})) for each in fields], device)
        found = compare(cases)
        none = found["none"]
        ratios = f"activations alone x {found['activations'] / none:.2f}, all x {found['full'] / none:.2f}"
        print(f"width {width}, {batch[0]} x {batch[1]} tokens: unrecorded {none * 1e3:.1f} ms a step, {ratios}")


def libraries() -> None:
    """Compare one thread's step, and its chunk form, with MKL's products and fresh memory, as torch has them."""
    faster = products.onednn_is_faster
    q, k = (F.normalize(torch.randn(2, 1024, 6, 32), dim=-1).requires_grad_() for _ in range(2))
    v, write = (torch.randn(2, 1024, 6, 64).requires_grad_() for _ in range(2))
    log_alpha, beta = (x.requires_grad_() for x in (-0.1 * torch.rand(2, 1024, 6), torch.rand(2, 1024, 6)))

    def chunk_form() -> float:
        start = time.thread_time()
        (gated_delta_rule(q, k, v, log_alpha, beta)[0] * write).sum().backward()
        return time.thread_time() - start

    def alone(case: Callable[[], float], *, onednn: bool, kept: bool) -> float:
        products.onednn_is_faster = faster if onednn else lambda: False
        try:
            with memory_kept() if kept else nullcontext():
                return case()
        finally:
            products.onednn_is_faster = faster

    steps = {}
    for width in (32, 64, 128):
        grid = {"kind": "lr", "widths": [width], "parametrizations": ["gdn-mup"], "lrs": [0.01], "seeds": 14}
        grid |= {"base_width": 32, "n_layers": 1, "seq_len": 48, "eval_tokens": 0, "logit_scale": 4.0}
        steps[f"width {width}"] = make_sweep({**grid, "data": "synthetic", "steps": STEPS}).runs(**SOURCE)
    cases = {name: partial(seconds, runs, "cpu") for name, runs in steps.items()} | {"chunk form": chunk_form}
    for name, case in cases.items():
        options = {"MKL": (False, False), "chosen": (True, False), "chosen, memory kept": (True, True)}
        found = compare({o: partial(alone, case, onednn=one, kept=two) for o, (one, two) in options.items()})
        ratios = ", ".join(f"{option} {1e3 * found[option]:.1f} ms" for option in found)
        print(f"{name}: {ratios}: x {found['MKL'] / found['chosen, memory kept']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    CORPUS = open_corpus("synthetic")
    SOURCE = {"vocab_size": CORPUS.vocab_size, "data_hash": CORPUS.hash}
    replicas(device)
    recording(device)
    if device == "cpu":
        libraries()
