"""`text:PATH`: bytes of a file, or of a folder's files."""

import os
from pathlib import Path

from mupcheck.training.data.byte_files import byte_corpus, check_bytes, file_names, is_hidden, read_file
from mupcheck.training.data.corpus import Corpus

MAX_TEXT_BYTES = 2**32  # text is read whole, and once again while it is joined


def open_text(data: str, rest: str, vocab_size: int | None) -> Corpus:
    """Open `text:PATH` (see `open_corpus`)."""
    check_bytes(data, vocab_size)
    path = Path(os.path.expanduser(rest))
    # os.path's tests, unlike Path's, answer False where a name is too long or a folder closed
    if os.path.isdir(path):
        names = [name for name in file_names(path, is_hidden) if not is_hidden(name.rpartition("/")[2])]
        files = {name: path / name for name in names if os.path.isfile(path / name)}
        if not files:
            raise ValueError(f"{data}: the folder has no files (names with a leading dot are left out)")
    elif os.path.isfile(path):
        files = {path.name: path}
    else:
        fault = "is neither a file nor a folder" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{data}: {path} {fault}")
    if (size := sum(map(os.path.getsize, files.values()))) > MAX_TEXT_BYTES:
        raise ValueError(f"{data} has {size:,} bytes; text is read whole, up to {MAX_TEXT_BYTES:,}; try tokens:GLOB")
    return byte_corpus(data, {name: read_file(file) for name, file in files.items()})
