"""Results in a store at an address, such as s3://bucket/results, mirrored by a folder here."""
