"""Loops as they are compiled: what the interpreter computes rightly, a compiler may still drop."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# Compiles the way back of the convolution for a GPU that need not be there,
# and says how many tensors its loop carries from turn to turn.
SCRIPT = """
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mupcheck.ops.kernels.conv import _conv_backward


def carried(kernel, constants, pointers):
    signature = {name: "constexpr" if name in constants else "i32" for name in kernel.arg_names}
    signature |= dict.fromkeys(pointers, "*fp32") | {"eps": "fp32"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    return [len(found.split(",")) for found in re.findall(r"scf.yield (.*?) :", compiled.asm["ttir"])]


tile = {"LENGTH": 16, "UNROLL": 1, "ROWS": 4, "BLOCK": 128}
for unit in (True, False):
    constants = {"TAPS": 4, "UNIT": unit, **tile}
    print(*carried(_conv_backward, constants, ["grad", "x", "weight", "dx", "partial"]))
"""


def test_the_convolution_carries_all_that_it_walks_along_with(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    # x and the gradient of four tokens and of the one that comes, three gradients of y, four sums over time: three of
    # these, begun as zeros, were dropped once, and the gradient of x was off by 70% on every GPU
    assert ended.stdout.split() == ["12", "12"], ended.stderr[-2000:]
