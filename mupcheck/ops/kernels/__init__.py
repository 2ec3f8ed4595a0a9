"""Triton kernels; every module here imports triton when it is loaded, so import them only where a kernel runs."""
