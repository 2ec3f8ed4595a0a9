"""Several waits for a store at once, in threads that keep no process from ending."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

THREADS = 16

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def at_once(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Return what a function says of each item, in their order.

    Not an executor, whose threads Python waits for when it ends: one that hangs on a dead connection would hold that up
    for minutes.

    Raises:
        Exception: the first that was raised; what has not begun by then is left out.
    """
    waiting, answers, errors = deque(enumerate(items)), dict[int, Answer](), list[BaseException]()

    def work() -> None:
        while not errors:
            try:
                index, item = waiting.popleft()
            except IndexError:
                return
            try:
                answers[index] = function(item)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(THREADS, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [answers[index] for index in range(len(items))]
