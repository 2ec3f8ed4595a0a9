"""Triton kernels for CUDA devices: the gated delta rule, what stands beside it in the model, and the optimizers.

Its modules import triton when they are loaded, so nothing outside imports them before a CUDA tensor arrives. No kernel
uses atomics or tunes itself: two calls give equal bits. The rule's algebra is that of `mupcheck.ops.chunk`.

    rule.py      the gated delta rule, differentiable; configs.py has the table of its launch configurations
    invert.py    chunk by chunk: X = (I + A)^-1                             [B, H, N, C, C]
    scan.py      from chunk to chunk: the state, what is written, o         [B, T, H, V]
    backward.py  the way back, in two kernels of the same kind

    mixer.py     what a mixer gives the rule: one product (products.py), conv.py, gates.py
    norms.py, swiglu.py, cross_entropy.py, steps.py; sums.py adds up what programs leave, sigmoid.py is theirs

A torch form of each stands in `mupcheck.model` and `mupcheck.training.updates`.
"""
