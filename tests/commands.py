"""The command line as a test meets it: code, stdout and stderr of one command."""

import contextlib
import io
import json
import signal
import sys
from dataclasses import dataclass

import pytest

from mupcheck.cli import app


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON document that is all of stdout; NaN and Infinity are not JSON."""

        def refuse(constant):
            raise ValueError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


def mupcheck(*arguments: object, **environment: str) -> Answer:
    """Run the command line in this process, as its entry point does."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mupcheck", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            app.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return Answer(ended.value.code, out.getvalue(), err.getvalue())
