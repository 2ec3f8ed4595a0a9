"""What replicas save and what recording costs, each compared in one run: python tests/benchmark.py [--device cuda].

Medians over rounds in which the things compared take turns, so that a busy machine slows both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from mupcheck.spec.reading import make_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import train

ROUNDS, STEPS = 5, 12


def seconds(runs: list[RunSpec], device: str) -> float:
    """Return the median time of a training step after the first two."""
    times, last = [], None
    for _ in train(runs, CORPUS, device=device):
        if device != "cpu":
            torch.cuda.synchronize()
        now = time.perf_counter()
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    CORPUS = open_corpus("synthetic")
    SOURCE = {"vocab_size": CORPUS.vocab_size, "data_hash": CORPUS.hash}
    replicas(device)
    recording(device)
