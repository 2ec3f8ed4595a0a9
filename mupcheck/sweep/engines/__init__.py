"""Where groups of runs execute; each engine is one file with the same `execute`."""
