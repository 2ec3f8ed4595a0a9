"""The gated delta rule in Triton, forward and backward, for CUDA devices.

Its modules import triton when they are loaded, so nothing outside imports them before a CUDA tensor arrives. The
algebra is that of `mupcheck.ops.chunk`; `rule.py` is the entry, `configs.py` the table of launch configurations.

    invert.py    chunk by chunk: X = (I + A)^-1                            [B, H, N, C, C]
    reads.py     chunk by chunk: P, where several programs of the scan need it
    scan.py      from chunk to chunk: the state, what is written, o         [B, T, H, V]
    backward.py  the way back, in two kernels of the same kind
"""
