"""Names that are also names of files: of sweeps and of custom tables."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_NAME = 100  # with what is added to it, a file name may have 255 bytes
NAME_RULE = f"letters, digits, '.', '_' and '-', at most {MAX_NAME}, a letter or digit first"
