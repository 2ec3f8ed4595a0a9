"""The initial values of a group are begun once, while the group before it trains."""

from collections import deque

from mupcheck.model import build
from mupcheck.sweep.path import PathTask
from mupcheck.sweep.runner import _DrawnAhead


def test_the_next_group_is_begun_once(monkeypatch):
    begun = []
    monkeypatch.setattr(build, "draw_ahead", lambda runs, device: begun.append((runs, device)))
    wide, narrow = ("wide",), ("narrow",)
    waiting, ahead = deque([(PathTask((), False),), wide, narrow]), _DrawnAhead("cuda:0")
    ahead.for_next(waiting)
    assert begun == [(wide, "cuda:0")], "what the path is compared on is no group"
    waiting.popleft()
    ahead.for_next(waiting)
    assert len(begun) == 1
    waiting.popleft()
    for _ in range(3):
        ahead.for_next(waiting)
    waiting.popleft()
    ahead.for_next(waiting)
    assert begun == [(wide, "cuda:0"), (narrow, "cuda:0")]
