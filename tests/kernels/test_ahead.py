"""Kernels compiled ahead: nothing is launched meanwhile, and afterwards they are there."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from mupcheck.ops import fused
from mupcheck.ops.kernels import steps
from mupcheck.ops.kernels.ahead import compiled_ahead
from mupcheck.training import replicas
from mupcheck.training.device_loop import train_on_device

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A driver that names a GPU and can launch nothing: what is compiled for it is compiled for good.
SCRIPT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mupcheck.ops.kernels import steps
from mupcheck.ops.kernels.ahead import compiled_ahead

class Driver:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

driver.set_active(Driver())
addresses, layout = torch.zeros(2, dtype=torch.int64), steps.layout_of([7, 5000], torch.device("cpu"))
with compiled_ahead():
    steps.gradient_norms(addresses, layout, 3)
    steps.gradient_norms(addresses, layout, 3)
kept = [list(kernel.device_caches[0][0].values()) for kernel in (steps._square_sums, steps._norms)]
print([len(kernels) for kernels in kept], all("cubin" in kernel.asm for kernels in kept for kernel in kernels))
try:
    steps.gradient_norms(addresses, layout, 3)
except Exception as error:
    print("launched", type(error).__name__)
"""


def test_kernels_are_compiled_and_none_is_launched(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout.splitlines()[:1] == [
        "[2, 1] True"
    ]  # sums of four values at once, and of one, ended.stderr[-2000:]
    # the negative control: outside, the same call would launch, which this driver cannot
    assert ended.stdout.splitlines()[1].startswith("launched")


@pytest.mark.skipif(torch.cuda.is_available(), reason="under the interpreter alone")
def test_the_interpreter_computes_as_always():
    gradients = [torch.ones(2, 3), torch.ones(2, 5, 5)]
    addresses = torch.tensor([x.data_ptr() for x in gradients])
    with compiled_ahead():
        norms = steps.gradient_norms(addresses, steps.layout_of([3, 25], torch.device("cpu")), 2)
    assert torch.allclose(norms, torch.tensor([28.0, 28.0]).sqrt())


def test_what_is_compiled_ahead_changes_no_number(corpus, make_run, monkeypatch):
    monkeypatch.setattr(fused, "DEVICES", {DEVICE})
    monkeypatch.setattr(replicas, "_compiled", set())
    runs = [make_run(seed=seed, n_layers=1, batch_size=1, width=16, eval_tokens=16, steps=1) for seed in (0, 1)]
    rows = list(train_on_device(runs, corpus, device=DEVICE, n_steps=1))
    assert len(replicas._compiled) == 1
    # what is compiled is not compiled again
    assert list(train_on_device(runs, corpus, device=DEVICE, n_steps=1)) == rows
    assert len(replicas._compiled) == 1
