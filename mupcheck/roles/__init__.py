"""Roles of the parameters of any torch model, from how each side grows with width, and a table applied to them."""
