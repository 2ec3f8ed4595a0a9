"""`hf:NAME`: bytes of a data set that is streamed from the Hugging Face hub."""

from mupcheck.training.data.byte_files import byte_corpus, check_bytes
from mupcheck.training.data.corpus import Corpus

HF_BYTES = 2**23


def open_hf(data: str, rest: str, vocab_size: int | None) -> Corpus:
    """Open `hf:NAME` or `hf:NAME:CONFIG` (see `open_corpus`)."""
    check_bytes(data, vocab_size)
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{data} needs the package `datasets`; try pip install 'mupcheck[datasets]'") from None
    name, _, config = rest.partition(":")
    text = bytearray()
    try:
        for row in load_dataset(name, config or None, split="train", streaming=True):
            if not isinstance(row.get("text"), str):
                raise ValueError(f"no field `text` of strings; its fields are {', '.join(row)}")
            text += row["text"].encode() + b"\n"
            if len(text) >= HF_BYTES:
                break
    # what datasets 5 raises: ConnectionError and FileNotFoundError are OSErrors; a bad config or split is a ValueError,
    # a data set that is a script a RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{data} cannot be read: {reason}; check the name and the network, or try text:PATH") from None
    return byte_corpus(data, {name: bytes(text[:HF_BYTES])})
