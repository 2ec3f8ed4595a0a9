"""Gated DeltaNet language models whose scaling is set from the table."""

from mupcheck.model.build import build_model

__all__ = ["build_model"]
