"""Tiny models and data, one thread, the gpu mark, and triton's interpreter where there is no GPU."""

import gc
import os
import signal
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mupcheck.spec.run import RunSpec
from mupcheck.theory.rules_file import find_table
from mupcheck.training.data.corpus import Corpus

# Behind a shell's & it is ignored, by the commands that tests start and interrupt as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when triton is imported, which parts of torch do as well: so before any test is. It computes on a CPU then.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # the same bits on every machine of a kind, and two test processes do not fight over two cores
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """64 k tokens in which a token often follows its neighbour in the alphabet, so that there is something to learn."""
    rng = np.random.Generator(np.random.Philox(key=0))
    steps = rng.choice([1, 1, 1, 2, 7], size=65_536)
    tokens = (np.cumsum(steps) % 32).astype(np.uint8)
    return Corpus("test", tokens[:-8192], tokens[-8192:], 32, "0" * 16)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunSpec]:
    """Return a function that makes a tiny RunSpec, changed by keywords."""

    def make(parametrization: str = "gdn-mup", **changes: object) -> RunSpec:
        fields = {
            "width": 16,
            "base_width": 16,
            "n_heads": 2,
            "vocab_size": 32,
            "readout_std": 0.25,
            "lr": 2.0**-8,
            "steps": 4,
            "batch_size": 2,
            "seq_len": 16,
            "seed": 0,
            "data": "test",
            "kind": "lr",
        }
        table = changes.pop("table", None) or find_table(parametrization)
        return RunSpec(parametrization=table.name, table=table, **(fields | changes))

    return make


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return each device in turn; the law is the same on both."""
    return request.param


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let `--dist loadfile` hand out what takes longest first."""
    from longest_first import LongestFirst

    return LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage in what is collected and imported, neither meanwhile nor later: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_finish() -> None:
    """Keep no bytecode from here on: of a file written again within a second, as tests do, the old one would be run."""
    sys.dont_write_bytecode = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none, and the long audits that were not asked for."""
    if hasattr(config, "workerinput"):  # a process of several
        from longest_first import longest_first

        items[:] = [items[i] for i in longest_first([item.nodeid for item in items])]
    if "families" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("families"):
                item.add_marker(pytest.mark.skip(reason="pytest -m families runs it"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def nothing_timed(monkeypatch) -> None:
    """Let a dry run guess its time, rather than train for it."""
    monkeypatch.setattr("mupcheck.sweep.estimate.time_widths", lambda *_, **__: {})
