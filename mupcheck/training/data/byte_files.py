"""Bytes of text files as tokens: which files of a folder, and which of them are held out."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mupcheck.training.data.corpus import BYTES, HELD_OUT_SHARE, Corpus, in_memory


def check_bytes(data: str, vocab_size: int | None) -> None:
    """Refuse a vocabulary that is not that of bytes."""
    if vocab_size not in (None, BYTES):
        raise ValueError(f"vocab_size={vocab_size} does not fit {data}, which is bytes; leave it out or give {BYTES}")


def file_names(root: Path, is_skipped: Callable[[str], bool]) -> list[str]:
    """Return the files under a folder as sorted names relative to it, with forward slashes."""

    def fail(error: OSError) -> None:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}")

    names = []
    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not is_skipped(name)]
        names += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return sorted(names)


def is_hidden(name: str) -> bool:
    """Say whether a name has a leading dot."""
    return name.startswith(".")


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def byte_corpus(data: str, files: dict[str, bytes]) -> Corpus:
    """Return the bytes of files, by name, as a corpus; what is held out is held out by file.

    Raises:
        ValueError: if there are none.
    """
    total = sum(map(len, files.values()))
    if not total:
        raise ValueError(f"{data} is empty")
    held_out: set[str] = set()
    held_bytes = 0
    # by a hash of the name, so that another Python version or one more file hardly changes what is held out
    for name in sorted(files, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()):
        if held_bytes >= HELD_OUT_SHARE * total:
            break
        held_out.add(name)
        held_bytes += len(files[name])
    if held_bytes > 2 * HELD_OUT_SHARE * total:
        held_out, held_bytes = set(), int(HELD_OUT_SHARE * total)
    # sorted is stable: train in the files' order, then what is held out
    tokens = np.frombuffer(b"".join(files[name] for name in sorted(files, key=held_out.__contains__)), np.uint8)
    return in_memory(data, tokens, total - held_bytes, BYTES)
