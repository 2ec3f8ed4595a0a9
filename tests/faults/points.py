"""Every place where a command changes what is on disk, counted, and a fault put at one of them.

A point is a call that makes, fills, names or removes something under a folder, or forces it to the disk. Of a write
there are two: before any of it, and with half of it written. Faults are put in where Python calls the system, so that
they come at the same place on every machine.
"""

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CRASHED = 99  # exit code
CRASH = "crash"
REASONS = ("ENOSPC", "EROFS", "EIO")
CHANGING = (os.O_WRONLY | os.O_RDWR | os.O_CREAT) & ~os.O_RDONLY


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    Attributes:
        folder: under which points count.
        log: a file that is given a line for each point.
        what: "crash", the name of an errno, or "" for nothing.
        at: the index of the point.
        stays: whether every point after it fails as well, as on a disk that is full.
    """

    folder: str
    log: str
    what: str = ""
    at: int = -1
    stays: bool = False


class Points:
    """Counts points and lets the fault happen at its own."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.n, self.root = fault, 0, os.path.realpath(fault.folder)
        self.log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def meet(self, kind: str, path: Any) -> None:
        """Count one point, and crash or raise where it is the one."""
        index, self.n = self.n, self.n + 1
        os.write(self.log, f"{kind} {os.path.relpath(path, self.root)}\n".encode())
        fault = self.fault
        if not fault.what or index < fault.at or (index > fault.at and not fault.stays):
            return
        if fault.what == CRASH:
            os._exit(CRASHED)
        code = getattr(errno, fault.what)
        raise OSError(code, os.strerror(code), str(path))

    def has(self, path: Any) -> bool:
        """Say whether a path, or what a file descriptor is of, lies under the folder."""
        try:
            path = f"/proc/self/fd/{path}" if isinstance(path, int) else os.fspath(path)
            parent = os.path.realpath(path if path.startswith("/proc/") else os.path.dirname(os.path.abspath(path)))
        except (TypeError, ValueError, AttributeError):
            return False
        return f"{parent}/".startswith(f"{self.root}/")

    def around(self, kind: str, function: Callable[..., Any], *, path_at: int = 0) -> Callable[..., Any]:
        """Return a function that is a point where it concerns the folder."""

        def called(*arguments: Any, **options: Any) -> Any:
            if arguments and self.has(arguments[path_at]):
                path = arguments[path_at]
                self.meet(kind, os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path)
            return function(*arguments, **options)

        return called


class Filled:
    """A file that is written to, each write of it two points."""

    def __init__(self, file: Any, points: Points, path: Any) -> None:
        self._file, self._points, self._path = file, points, path

    def write(self, data: Any) -> int:
        self._points.meet("write", self._path)
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._points.meet("half", self._path)
        return half + self._file.write(data[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Filled":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def install(fault: Fault) -> None:
    """Let the calls of this process be points from now on."""
    points = Points(fault)
    opened, opened_low = io.open, os.open

    def open_file(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode).isdisjoint("wxa+") or not points.has(path):
            return opened(path, mode, *arguments, **options)
        points.meet("open", path)
        return Filled(opened(path, mode, *arguments, **options), points, path)

    def open_low(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if points.has(path) and (flags & CHANGING or Path(path).is_dir()):
            points.meet("open", path)
        return opened_low(path, flags, *arguments, **options)

    io.open = open_file
    os.open = open_low
    for name, kind in {
        "fsync": "fsync",
        "replace": "rename",
        "rename": "rename",
        "unlink": "unlink",
        "remove": "unlink",
        "mkdir": "mkdir",
        "rmdir": "rmdir",
    }.items():
        setattr(os, name, points.around(kind, getattr(os, name)))
