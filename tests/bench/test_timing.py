"""Times: calls take turns, a slower one is slower, and the machine's ceilings are there."""

import time
from contextlib import contextmanager

import pytest
import torch

from mupcheck.bench import timing
from mupcheck.bench.rows import Timing


def test_calls_take_turns():
    order = []
    timing.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, "cpu", seconds=0.0)
    text = "".join(order)
    assert text.startswith("aaabbb"), "two to warm up, one to see how many it will be"
    assert text[6:] == "ab" * timing.ROUNDS


def test_on_a_cpu_memory_stays_with_the_process_from_call_to_call_and_no_longer(monkeypatch):
    order = []

    @contextmanager
    def kept():
        order.append("kept")
        yield
        order.append("given back")

    monkeypatch.setattr(timing, "memory_kept", kept)
    timing.take_turns({"a": lambda: order.append("call")}, "cpu", seconds=0.0)
    assert (order[0], order[-1]) == ("kept", "given back")
    assert set(order[1:-1]) == {"call"}


def test_a_call_that_takes_twice_as_long_is_seen():
    found = timing.take_turns(
        {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}, "cpu", seconds=0.03
    )
    assert found["short"].low >= 0.002
    assert found["long"].median / found["short"].median > 1.5
    assert found["long"].low <= found["long"].median <= found["long"].high


def test_the_summary_is_median_and_quartiles():
    assert timing.summary([3.0, 1.0, 2.0]) == Timing(2.0, 1.0, 3.0, 3)
    assert timing.summary([5.0]) == Timing(5.0, 5.0, 5.0, 1)


def test_the_ceilings_of_this_machine(monkeypatch):
    monkeypatch.setitem(timing.PRODUCT_SIZE, "cpu", 64)
    monkeypatch.setitem(timing.COPY_BYTES, "cpu", 2**16)
    machine = timing.ceilings("cpu", seconds=0.01)
    assert machine.product == "64^3 float32"
    assert min(machine.bytes_per_second, machine.flops_per_second) > 1e6
    assert 0 < machine.launch_seconds < 0.01


def test_no_memory_is_told_of_a_cpu():
    assert timing.peak_bytes(lambda: torch.ones(10), "cpu") is None


@pytest.mark.gpu
def test_memory_and_graphs_on_a_gpu():
    x = torch.zeros(2**20, device="cuda")
    assert timing.peak_bytes(lambda: x + 1, "cuda") == 2**22
    replay, result = timing.in_graph(lambda: x.add_(1))
    assert result is x
    before = float(x[0])
    replay()
    assert float(x[0]) == before + 1
    found = timing.take_turns({"graph": replay}, "cuda", seconds=0.01)
    assert 0 < found["graph"].median < 0.01
