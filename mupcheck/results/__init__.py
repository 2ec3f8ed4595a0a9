"""Parquet on disk, the only place where measuring and judging meet."""
