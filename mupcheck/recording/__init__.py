"""Coordinate sizes of any torch model, recorded in its user's own loop."""
