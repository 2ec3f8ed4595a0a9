"""Coordinate sizes of a model while it trains."""
