"""Figures for a paper, in the layout of Figures 1 and 2 of arXiv:2606.04048, at the width of one column or of two."""
