"""TOML files as people save them: with a byte order mark or Windows line ends, named where they cannot be read."""

import re
import tomllib
from pathlib import Path
from typing import Any

MAX_BYTES = 2**20


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; `what` names its kind in errors, such as "sweep file".

    Raises:
        ValueError: if the file cannot be read, is no text of at most MAX_BYTES, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter for a name with a NUL
        raise ValueError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"cannot read the {what} {path}: it is larger than {MAX_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        hint = "it is UTF-16; save it as UTF-8" if utf16 else f"it is no UTF-8 text ({error.reason})"
        raise ValueError(f"{path} is not valid TOML: {hint}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fraction = re.search(r"^[^#\"'\n]*=\s*([+-]?\d+/\d+)", text, re.MULTILINE)
        hint = f'; a fraction is written in quotes: "{fraction[1]}"' if fraction else ""
        raise ValueError(f"{path} is not valid TOML: {error}{hint}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of more digits than Python reads
        raise ValueError(f"{path} is not valid TOML: {error}") from None
