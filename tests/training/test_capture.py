"""Work that is captured once and replayed, and what happens where it cannot be."""

import warnings
from contextlib import contextmanager

import pytest
import torch

from mupcheck.training import capture
from mupcheck.training.capture import WARM_UP, Captured


class Tape:
    """Stands for a CUDA graph: what is called while it records is called again by its replay."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1

    def reset(self):
        self.replays = -1


@pytest.fixture
def tape(monkeypatch):
    """Let a graph be recorded without a GPU; return the last graph and what it was told."""
    told = {}

    @contextmanager
    def record(graph, **options):
        told.update(options, graph=graph)
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "side")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return told


def test_it_is_called_to_warm_up_then_captured_once_and_replayed(tape):
    calls = []
    step = Captured(lambda: calls.append(1), calls=20, least=4, pool=(1, 1))
    for _ in range(20):
        step()
    # capturing calls it without doing it; every call after that is one replay
    assert len(calls) == WARM_UP + 1
    assert tape["graph"].replays == 20 - WARM_UP
    assert tape["stream"] == "side"
    step.release()
    assert tape["graph"].replays == -1
    step()
    assert len(calls) == WARM_UP + 2


@pytest.mark.parametrize(("calls", "pool"), [(WARM_UP + 3, (1, 1)), (100, None)])
def test_a_few_calls_or_a_host_that_is_needed_are_not_captured(tape, calls, pool):
    made = []
    step = Captured(lambda: made.append(1), calls=calls, least=4, pool=pool)
    for _ in range(calls):
        step()
    assert len(made) == calls
    assert not tape


def test_what_cannot_be_captured_goes_on_without_and_says_so_once(tape, monkeypatch):
    made = []

    def step():
        if capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        made.append(1)

    capturing = False

    @contextmanager
    def record(graph, **options):
        nonlocal capturing
        capturing = True
        try:
            yield
        finally:
            capturing = False

    monkeypatch.setattr(torch.cuda, "graph", record)
    captured = Captured(step, calls=10, least=4, pool=(1, 1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(10):
            captured()
    assert len(made) == 10
    assert [str(w.message) for w in said] == [
        "steps are not captured in a CUDA graph and so are slower: operation not permitted when stream is capturing"
    ]


def test_a_full_memory_is_no_reason_to_go_on(tape, monkeypatch):
    @contextmanager
    def record(graph, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(torch.cuda, "graph", record)
    captured = Captured(lambda: None, calls=10, least=4, pool=(1, 1))
    for _ in range(WARM_UP):
        captured()
    with pytest.raises(torch.OutOfMemoryError):
        captured()


def test_a_cpu_has_no_side_stream():
    with capture.on_side_stream(torch.device("cpu")):
        assert torch.ones(1).item() == 1
