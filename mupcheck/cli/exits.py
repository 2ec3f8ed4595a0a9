"""Exit codes of every command (see `mupcheck explain exit-codes`)."""

OK, FAILED, USAGE, CANNOT_TELL, STORAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 143
