"""The library that draws the page's charts, as one script: put together by a process beside, while results are judged.

It takes two seconds in which vl_convert lets no other thread run.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

SNIPPET = "window.vegaEmbed = vegaEmbed;"
END = "\n// whole"
PROGRAM = f"""
import sys, vl_convert
sys.stdout.buffer.write((vl_convert.javascript_bundle({SNIPPET!r}) + {END!r}).encode())
"""


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle(SNIPPET))


@contextmanager
def library_beside() -> Iterator[Callable[[], str]]:
    """Yield a function that returns what `library` does, made meanwhile by a process that does not outlive this.

    Where no process can be started, or it fails, the library is made when it is asked for.
    """
    if library.cache_info().currsize:
        yield library
        return
    process: Any = None
    with suppress(OSError, ValueError):  # as where Python is inside another program
        process = sys.executable and subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # no file of the folder at hand is imported
        )
    try:
        yield cache(lambda: (process and _made_by(process)) or library())
    finally:
        if process:
            process.kill()
            with process:  # waits for it, and closes the pipe
                pass


def _made_by(process: subprocess.Popen[bytes]) -> str:
    """Return what a process made, "" if it failed or made something else, being no Python."""
    made, _ = process.communicate()
    whole = process.returncode == 0 and made.endswith(END.encode())
    return made.decode().removesuffix(END) if whole else ""
