"""A user's own model file, built and trained at several widths under a recorder."""
