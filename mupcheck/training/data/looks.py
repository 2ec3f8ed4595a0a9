"""What a file looks like that is not what it was given as: by its first bytes and a few sampled ones, never the whole.

Conservative: a file is called something else only where its first bytes name a format and the rest agrees, or where
every sampled block that says anything fits another number type better than the one it was given as.
"""

import os
import zlib
from collections.abc import Iterable

import numpy as np

HEAD_BYTES = 2**14
BARE = "np.load(FILE).astype(np.uint16).tofile('tokens.bin') writes the bare tokens, np.uint32 if one is above 65,535"
EXPORT = "export its text, or its token ids as bare uint16 or uint32"
# first bytes, what begins with them, and what to do; four bytes may be two tokens, so those end in a known way too
FORMATS: tuple[tuple[bytes, bytes, str, str], ...] = (
    (b"\x93NUMPY", b"", "a NumPy .npy file", BARE),
    (b"PAR1", b"PAR1", "a Parquet file", EXPORT),
    (b"ARROW1", b"ARROW1", "an Arrow file", EXPORT),
    (b"PK\x03\x04", b"PK\x05\x06", "a zip archive (.zip, .npz, .pt)", "unpack it"),
    (b"\xfd7zXZ\x00", b"YZ", "an xz file", "unpack it"),
    (b"\x28\xb5\x2f\xfd", b"", "a zstd file", "unpack it"),
    *((b"BZh%d1AY&SY" % level, b"", "a bzip2 file", "unpack it") for level in range(1, 10)),
    *((b"\x80%c\x95" % version, b".", "a Python pickle", EXPORT) for version in (4, 5)),
    (b"\x89HDF\r\n\x1a\n", b"", "an HDF5 file", EXPORT),
    (b"SQLite format 3\x00", b"", "an SQLite file", EXPORT),
    (b"%PDF-", b"%%EOF", "a PDF file", EXPORT),
    (b"\x89PNG\r\n\x1a\n", b"IEND", "a PNG picture", "give text or tokens"),
    (b"\xff\xd8\xff\xe0", b"\xff\xd9", "a JPEG picture", "give text or tokens"),
    (b"\x7fELF\x02\x01\x01", b"", "a program (ELF)", "give text or tokens"),
)
# the widest first: narrow tokens fit a wide type only where the rest of it is 0
DTYPES = {
    "int64": "<i8",
    "float64": "<f8",
    "uint32": "<u4",
    "float32": "<f4",
    "uint16": "<u2",
    "big-endian uint16": ">u2",
}
MIN_VALUES, MIN_DISTINCT = 16, 4
LARGEST_VOCABULARY = 2**20  # of known tokenizers: 262,144
# bytes that text does not hold; of compressed data they are a tenth, of token files a fifth and more
CONTROL = np.isin(np.arange(256), [*range(7), *range(14, 27), *range(28, 32), 127])
CONTROL_SHARE = 0.05


def format_of(head: bytes, tail: bytes) -> str | None:
    """Return what a file is by its first and last HEAD_BYTES, and what to do; None if they do not say."""
    if head.startswith(b"\x1f\x8b\x08") and _inflates(head):
        return "is a gzip file; unpack it"
    for magic, end, name, advice in FORMATS:
        if head.startswith(magic) and end in tail:
            return f"is {name}; {advice}"
    return None


def is_text(head: bytes) -> bool:
    """Say whether bytes are UTF-8 of some length and variety, without control characters; no tokens are."""
    if len(head) < 2 * MIN_VALUES or len(set(head)) < MIN_VALUES // 2 or control_share(head) > 0:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # cut within a character
    return True


def control_share(head: bytes) -> float:
    """Return the share of bytes that text does not hold."""
    return float(CONTROL[np.frombuffer(head, np.uint8)].mean()) if head else 0.0


def dtype_of(block: np.ndarray, vocab_size: int) -> str | None:
    """Return the widest number type in which a block is tokens, more than half of them not 0; None where none is.

    Nor is any where the tokens are too few, or too much alike, to tell.

    Args:
        block: of any dtype, from a place in the file that is a multiple of 8 bytes.
        vocab_size: tokens are below it; wide integers whose lower halves are those of many tokens may be above.
    """
    raw = block.tobytes()
    for name, dtype in DTYPES.items():
        itemsize = np.dtype(dtype).itemsize
        values = np.frombuffer(raw[: len(raw) // itemsize * itemsize], dtype)
        if len(values) < MIN_VALUES or np.count_nonzero(values) <= len(values) // 2:
            continue
        limit = vocab_size
        if name in ("int64", "uint32") and np.count_nonzero((values & 0xFFFF) > 15) > len(values) // 2:
            limit = max(limit, LARGEST_VOCABULARY)
        with np.errstate(invalid="ignore"):
            whole = values.dtype.kind != "f" or bool((values == np.floor(values)).all())
            if whole and bool((values >= 0).all() and (values < limit).all()):
                return name if len(np.unique(values)) >= MIN_DISTINCT else None  # 1 0 1 0 1 0 may be what it says
    return None


def agreed(votes: Iterable[str | None]) -> str | None:
    """Return what all blocks that say anything say; None where they differ or none says anything."""
    said = set(votes) - {None}
    return said.pop() if len(said) == 1 else None


def read_ends(path: str | os.PathLike, size: int) -> tuple[bytes, bytes]:
    """Return the first and the last HEAD_BYTES of a file of `size` bytes."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(size - HEAD_BYTES, 0))
        return head, file.read(HEAD_BYTES)


def _inflates(head: bytes) -> bool:
    try:
        zlib.decompressobj(wbits=31).decompress(head)
    except zlib.error:
        return False
    return True
