"""Files written whole or not at all, and whether a folder could take them."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mupcheck.results.stores.address import check_no_address

if TYPE_CHECKING:
    pass


# A temporary name starts with a dot and ends like this; what a killed writer left is removed after an hour.
TMP_SUFFIX = ".mupcheck-tmp"
STALE_SECONDS = 3600.0
EARLIER = "earlier"  # of a sweep's folder: runs of an earlier spec that were set aside
# no fault of who names a folder
OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class StoreError(OSError):
    """A result could not be stored (disk full, unwritable); the message names the file and the reason."""


@contextmanager
def alone(folder: Path, file: str = "") -> Iterator[None]:
    """Let one process at a time be within; the lock goes with its owner. Where a file system has no locks, none waits.

    Args:
        folder: what is locked; made where it is missing.
        file: in it, to be locked instead: NFS locks no folder.
    Raises:
        StoreError: if it cannot be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT if file else os.O_RDONLY
        handle = os.open(folder / file, flags, 0o666)
    except OSError as error:
        raise StoreError(f"cannot write {folder / file}: {error.strerror}; give another folder") from error
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all, in place of one that is there; its folder is made where it is missing.

    Raises:
        StoreError: if the file cannot be written.
    """
    path = Path(path)
    # a link stays one, and what is no file, such as /dev/stdout, is written to and not replaced
    target = path.resolve() if path.is_symlink() else path
    if not target.exists() or target.is_file():
        write_whole([(target, text.encode())], advice="give another file")
        return
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; give another file") from error


def add_text(path: Path, text: str) -> None:
    """Add text to the end of a file; it and its folder are made where they are missing.

    Raises:
        StoreError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; give another file") from error


def check_writable(folder: str | Path) -> None:
    """Try whether a folder, which need not exist yet, could be written to; leaves nothing behind.

    Raises:
        ValueError: if it or a parent is a file, or no file can be made in the nearest folder that exists.
        StoreError: if the disk is at fault: full, read-only or broken.
    """
    folder = Path(folder)
    check_no_address(folder, "the folder")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # a name that no folder can have fails here
        nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        # Only trying tells: permission bits mean nothing to root, nor on a read-only mount.
        probe = _tmp_path(nearest / "probe")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        kind = StoreError if error.errno in OF_DISK else ValueError
        raise kind(f"cannot write to {folder}: {error.strerror}; give another folder") from error


def write_whole(files: Sequence[tuple[Path, bytes]], *, advice: str = "finished runs are kept, rerun to go on") -> None:
    """Write all files or none. The last one marks the others as whole, so an old one goes first, a new one comes last.

    All bytes are on the disk before the first file gets its name, so a full disk is met in time. A kill between
    two renames leaves files without their mark, which readers pass over.
    """
    staged: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    path, mark = files[0][0], files[-1][0]
    try:
        for path, data in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path.parent)
            staged.append((_tmp_path(path), path))
            with staged[-1][0].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if len(files) > 1 and mark.exists():  # it would vouch for the new files before they are all there
            mark.unlink()
            _sync_folder(mark.parent)
        for tmp, path in staged:
            tmp.replace(path)
            placed.append(path)
            _sync_folder(path.parent)
    except BaseException as error:
        for leftover in (*reversed(placed), *(tmp for tmp, _ in staged)):
            with suppress(OSError):
                leftover.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise StoreError(f"cannot write {path}: {reason}; {advice}") from error
        raise


def write_stream(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that may be larger than memory, whole or not at all, in place of one that is there.

    Args:
        path: its folder is made where it is missing.
        write: writes it, and may go back in it.
    Raises:
        StoreError: if it cannot be written; what was there stays.
    """
    tmp = _tmp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with tmp.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            tmp.unlink()
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def _tmp_path(path: Path) -> Path:
    """A dotted name beside path that no other writer has."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TMP_SUFFIX}")


def _remove_stale(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(TMP_SUFFIX):
            with suppress(FileNotFoundError):  # another writer was quicker
                if time.time() - entry.stat().st_mtime > STALE_SECONDS:
                    os.unlink(entry)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())
