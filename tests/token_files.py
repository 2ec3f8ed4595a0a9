"""Text and token files to open."""

from pathlib import Path

import numpy as np

from mupcheck.training.data.corpus import Corpus


def counting(n_train: int = 1000, n_held_out: int = 100) -> Corpus:
    """A corpus whose tokens say where they lie: train counts from 0, held-out from n_train."""
    train, held_out = np.split(np.arange(n_train + n_held_out, dtype=np.uint16), [n_train])
    return Corpus("counting", train, held_out, vocab_size=2**16, hash="")


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def write_tokens(path: Path, tokens, dtype: str = "<u2", header: tuple[int, int] | None = None) -> Path:
    head = np.zeros(256, "<i4")
    if header:
        head[:3] = header[0], 1, header[1]
    path.write_bytes((head.tobytes() if header else b"") + np.asarray(tokens, dtype).tobytes())
    return path
