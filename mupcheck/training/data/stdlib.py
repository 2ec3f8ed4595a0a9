"""`stdlib`: bytes of the running interpreter's standard library sources."""

import re
import sysconfig
from pathlib import Path

from mupcheck.training.data.byte_files import byte_corpus, check_bytes, file_names, read_file
from mupcheck.training.data.corpus import Corpus

# what a standard library tree holds besides sources: tests, tables written by programs, things of this machine
STDLIB_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
)
STDLIB_SKIPPED_FILES = re.compile(
    r"html/entities\.py|stringprep\.py|re/_casefix\.py|idlelib/help\.py|(site|user)customize\.py|_sysconfigdata.*\.py"
)


# --- bytes: stdlib, text, hf ------------------------------------------------------------------------------------------


def open_stdlib(data: str, vocab_size: int | None) -> Corpus:
    """Open `stdlib` (see `open_corpus`)."""
    check_bytes(data, vocab_size)
    root = Path(sysconfig.get_path("stdlib"))
    names = [name for name in file_names(root, STDLIB_SKIPPED_FOLDERS.__contains__) if name.endswith(".py")]
    names = [name for name in names if not STDLIB_SKIPPED_FILES.fullmatch(name)]
    if not names:
        raise ValueError(f"this Python has no library sources in {root}; try text:PATH or synthetic")
    return byte_corpus(data, {name: read_file(root / name) for name in names})
