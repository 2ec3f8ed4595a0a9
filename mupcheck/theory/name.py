"""Names that are also names of files: of sweeps and of custom tables."""

import re
from typing import Any

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_NAME = 100  # with what is added to it, a file name may have 255 bytes
NAME_RULE = f"letters, digits, '.', '_' and '-', at most {MAX_NAME}, a letter or digit first"


def is_name(name: Any) -> bool:
    """Say whether something can be such a name."""
    return isinstance(name, str) and bool(re.match(NAME_PATTERN + r"\Z", name)) and len(name) <= MAX_NAME
