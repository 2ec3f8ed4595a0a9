"""`text:PATH`: bytes of a file, of a folder's files, or of the files that a pattern names."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path

from mupcheck.training.data.byte_files import byte_corpus, check_bytes, file_names, is_hidden, read_file
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.looks import CONTROL_SHARE, HEAD_BYTES, control_share, format_of

MAX_TEXT_BYTES = 2**32  # text is read whole, and once again while it is joined
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def open_text(data: str, rest: str, vocab_size: int | None) -> Corpus:
    """Open `text:PATH` (see `open_corpus`)."""
    check_bytes(data, vocab_size)
    files = _find(data, os.path.expanduser(rest))
    if (size := sum(map(os.path.getsize, files.values()))) > MAX_TEXT_BYTES:
        raise ValueError(f"{data} has {size:,} bytes; text is read whole, up to {MAX_TEXT_BYTES:,}; try tokens:GLOB")
    contents = {name: read_file(file) for name, file in files.items()}
    _check_text(data, contents)
    return byte_corpus(data, contents)


def _find(data: str, path: str) -> dict[str, Path]:
    """Return the files by their names relative to the folder, sorted: of a pattern, to the part before its wildcards.

    So DIR/** and DIR are the same files by the same names, and the same corpus.
    """
    # os.path's tests, unlike Path's, answer False where a name is too long or a folder closed
    if os.path.isdir(path):
        names = [name for name in file_names(Path(path), is_hidden) if not is_hidden(name.rpartition("/")[2])]
        files = {name: Path(path, name) for name in names if os.path.isfile(Path(path, name))}
        if not files:
            raise ValueError(f"{data}: the folder has no files (names with a leading dot are left out)")
        return files
    if os.path.isfile(path):
        return {Path(path).name: Path(path)}
    if os.path.exists(path):
        raise ValueError(f"{data}: {path} is neither a file nor a folder")
    if not glob.has_magic(path):
        raise ValueError(f"{data}: {path} does not exist")
    parts = Path(path).parts
    root = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    if not os.path.isdir(root):
        raise ValueError(f"{data}: the folder {root} does not exist")
    found = sorted(Path(name) for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not found:
        raise ValueError(f"{data}: no file matches {path} (names with a leading dot are left out)")
    return {name.relative_to(root).as_posix(): name for name in found}


def _check_text(data: str, contents: Mapping[str, bytes]) -> None:
    """Refuse what is for the most part not text: a picture or archive has the entropy of noise and teaches nothing.

    A few such files in a folder are let pass, as they were before.
    """
    faults = {name: fault for name, content in contents.items() if (fault := _fault(content))}
    if not faults or sum(len(contents[name]) for name in faults) <= sum(map(len, contents.values())) / 2:
        return
    name, fault = next(iter(faults.items()))
    if len(contents) == 1:
        raise ValueError(f"{data} {fault}")
    raise ValueError(
        f"{data}: {len(faults)} of {len(contents)} files, most of the bytes, are not text: {name} {fault}; "
        f"try a pattern such as text:DIR/**/*.txt"
    )


def _fault(content: bytes) -> str | None:
    head = content[:HEAD_BYTES]
    if what := format_of(head, content[-HEAD_BYTES:]):
        return what
    if head.startswith(UTF_16_MARKS):
        return "looks like UTF-16; write it as UTF-8"
    if (share := control_share(head)) > CONTROL_SHARE:
        return f"looks like binary data ({share:.0%} control bytes); token files are given by tokens:GLOB"
    return None
