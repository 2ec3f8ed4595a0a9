"""The kernels of sizes as a GPU gets them: what the interpreter runs, a compiler may still refuse."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# Goes through the launches of a layer of 6 heads for a GPU that need not be there, and compiles without launching.
SCRIPT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mupcheck.ops.kernels import sizes, swiglu


class Absent:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


driver.set_active(Absent())
run, compiled = JITFunction.run, set()


def compile_alone(self, *given, grid, warmup, **named):
    run(self, *given, grid=grid, warmup=True, **named)
    compiled.add(self.fn.__name__)


JITFunction.run = compile_alone
low, wide = (lambda *shape, dtype=dtype: torch.zeros(*shape, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))


def room(programs, values):
    return wide(2, programs)


rows = low(2, 64, 192 + 192 + 384 + 384 + 16)
q, k, v, g, z = rows.split([192, 192, 384, 384, 16], dim=2)
sizes.conv_sums([q, k], [wide(2, 4, 192)] * 2, [room] * 2, [room] * 2, batch=1)
sizes.dot_sums(low(2, 64, 6, 32), low(2, 64, 6, 32), room, room, room, replicas=2)
sizes.gate_sums(z, wide(2, 64, 6), wide(2, 64, 6), [room] * 4)
sizes.output_sums(low(2, 64, 6, 64), g, wide(2, 64), 1e-5, [room] * 3, factor=wide(2))
sizes.square_sums([low(2, 64, 256), v, wide(2, 192, 64), low(2, 64, 5)], [room] * 4)
sizes.roots(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int32), wide(3), replicas=2)
swiglu.swiglu_forward(low(2, 64, 512), room)
print(*sorted(compiled))
"""


def test_every_kernel_compiles_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    kernels = ("_conv_sums", "_dot_sums", "_gate_sums", "_output_sums", "_roots", "_square_sums", "_swiglu_forward")
    assert ended.stdout.split() == sorted(kernels), ended.stderr[-2000:]
