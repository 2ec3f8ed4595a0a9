"""Where tokens come from: one source a name, opened as a corpus."""

import os
from collections.abc import Callable

from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.hub import open_hf
from mupcheck.training.data.stdlib import open_stdlib
from mupcheck.training.data.synthetic import open_synthetic
from mupcheck.training.data.text import open_text
from mupcheck.training.data.tokens import open_tokens


def open_corpus(data: str, *, vocab_size: int | None = None) -> Corpus:
    """Open a source of tokens.

    Args:
        data: one of
            `stdlib`: bytes of the running interpreter's standard library sources (about 9 MB, another hash for another
                Python version), sorted by name.
            `synthetic`: a Zipf-Markov source of 4 Mi tokens, the same on every machine.
            `text:PATH`: bytes of a file, of a folder's files (recursive), or of the files that a pattern such as
                `DIR/**/*.py` names; sorted by their names in the folder, those with a leading dot left out.
            `tokens:GLOB`: nanoGPT-style .bin shards. Their dtype is uint16, or uint32 above a vocabulary of 65,536; a
                suffix `?dtype=uint16` or `?dtype=uint32` says otherwise, and an llm.c header wins.
            `hf:NAME` or `hf:NAME:CONFIG`: bytes of the field `text` in the first 8 MiB of the train split, streamed.
        vocab_size: of tokens:GLOB, where it is needed, and of synthetic (default 256). Bytes have 256.

    Text in files is held out by file: in the order of a hash of their names, until a tenth of the bytes is reached;
    where that takes more than a fifth (few files), the last tenth of the bytes is held out instead. Token files with
    val, valid or validation as a word of their name are held out; without any, the last tenth of the tokens is.

    Raises:
        ValueError: if the source is unknown, missing, empty, malformed or not what it is given as (an archive, .npy,
            int64 tokens, uint16 tokens of a vocabulary above 65,536, pictures as text), in one line.
    """
    scheme, colon, rest = data.partition(":")
    if scheme in PLAIN_SOURCES and not colon:
        return PLAIN_SOURCES[scheme](data, vocab_size)
    if scheme in NAMED_SOURCES and rest:
        return NAMED_SOURCES[scheme](data, rest, vocab_size)
    hint = f"; try text:{data}" if os.path.exists(os.path.expanduser(data)) else ""
    raise ValueError(
        f"data {data!r} is not one of stdlib, synthetic, text:PATH, tokens:GLOB, hf:NAME{hint} (mupcheck explain data)"
    )


PLAIN_SOURCES: dict[str, Callable[[str, int | None], Corpus]] = {
    "stdlib": open_stdlib,
    "synthetic": open_synthetic,
}
NAMED_SOURCES: dict[str, Callable[[str, str, int | None], Corpus]] = {
    "text": open_text,
    "tokens": open_tokens,
    "hf": open_hf,
}
