"""Work on a device that is recorded once as a CUDA graph and then replayed: one launch for all its kernels."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

# Calls before one is captured: they compile kernels, choose algorithms and set workspaces up. They are real steps.
WARM_UP = 2


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that work is captured on, one for a device: workspaces belong to a stream and stay."""
    return torch.cuda.Stream(device)


@contextmanager
def on_side_stream(device: torch.device) -> Iterator[None]:
    """Do what follows on the side stream of a CUDA device; on a CPU as always."""
    if device.type != "cuda":
        yield
        return
    stream = side_stream(device)
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield


class Captured:
    """A function without arguments or result that reads and writes tensors at addresses that stay.

    Called as it is at first, then captured and replayed. Where it cannot be captured, that is said once, and it is
    called as it is for good.

    Args:
        function: starts no copy from the host, and does not wait for the device, once it has been called WARM_UP times.
        calls: how many calls are expected.
        least: it is captured if at least so many are left.
        pool: of the memory that graphs of one group share, as they are replayed one after another.
        then: is called once, when it was captured and before it is replayed.
    """

    def __init__(
        self,
        function: Callable[[], None],
        *,
        calls: int,
        least: int,
        pool: Any,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.left, self.least, self.pool, self.then = function, calls, least, pool, then
        self.called = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do it once."""
        if self.pool is not None and self.graph is None and self.called >= WARM_UP and self.left >= self.least:
            self._capture()
        self.called += 1
        self.left -= 1
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def _capture(self) -> None:
        stream = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads, such as those that read files, may go on as they like
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                self.function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.pool = None
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"steps are not captured in a CUDA graph and so are slower: {reason}", stacklevel=2)
            return
        self.graph = graph
        self.then()

    def release(self) -> None:
        """Give the graph and its memory back."""
        if self.graph is not None:
            self.graph.reset()
        self.graph, self.pool = None, None
