"""Triton's interpreter runs the kernels where there is no GPU; without triton these tests are skipped."""

import os
from importlib.util import find_spec

import torch

# Read when triton is imported, which nothing outside mupcheck/ops/kernels does; it computes on a CPU then.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
