"""What a machine has."""

import subprocess
import sys

import pytest

from mupcheck.sweep import machine
from mupcheck.sweep.machine import available_memory, cores, size_text

GIB = 2**30


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.00 GiB"),
        (20 * 2**20, "0.01 GiB"),
        (GIB, "1.0 GiB"),
        (int(1.94 * 1024 * GIB), "1.9 TiB"),
        (23 * GIB, "23 GiB"),
        (1023 * GIB, "1023 GiB"),
        (2**50, "1.0 PiB"),
        (10**400, "more than 1,024 PiB"),
    ],
)
def test_sizes_are_written_in_units_of_1024(size, text):
    assert size_text(size) == text


def test_this_machine_has_memory_and_cores():
    assert 1 <= cores() <= 4096
    assert 2**28 < available_memory("cpu") < 2**50


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_a_control_group_leaves_what_its_limit_does(tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("3:cpu:/\n0::/job/step\n")
    assert machine._left_of_control_group(root, own) is None
    # version 2: the least of a group and those above it; files in its cache are given up
    write(root / "job", memory__max=8 * GIB, memory__current=3 * GIB, memory__stat=f"anon 1\ninactive_file {GIB}\n")
    write(root / "job" / "step", memory__max="max", memory__current=GIB)
    assert machine._left_of_control_group(root, own) == 6 * GIB
    # version 1, with no limit written as a number near 2^63
    own.write_text("4:cpuset,memory:/\n")
    write(root / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=GIB)
    assert machine._left_of_control_group(root, own) is None
    write(root / "memory", memory__limit_in_bytes=4 * GIB)
    assert machine._left_of_control_group(root, own) == 3 * GIB


def test_memory_is_all_there_is_where_nothing_says_what_is_free(monkeypatch):
    monkeypatch.setattr(machine, "_free", lambda: None)
    monkeypatch.setattr(machine, "_left_of_control_group", lambda: None)
    monkeypatch.setattr(machine.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory("cpu") == 4_096_000
    monkeypatch.setattr(machine.os, "sysconf", {}.__getitem__)
    with pytest.raises(KeyError):
        available_memory("cpu")
    monkeypatch.delattr(machine.os, "sysconf")
    assert available_memory("cpu") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_memory_that_is_kept_is_not_cleared_again_and_is_given_back():
    """Each page that a process meets for the first time is a fault; 16 tensors of 8 MiB have 32,768 of them."""
    code = """
import ctypes, sys, torch
from resource import RUSAGE_SELF, getrusage
from mupcheck.sweep.machine import M_MMAP_THRESHOLD, memory_kept
glibc = ctypes.CDLL(None)
if not hasattr(glibc, "gnu_get_libc_version"):
    sys.exit()
glibc.mallopt(M_MMAP_THRESHOLD, 2**17)  # as at the start of a process; from here on it does not move by itself
torch.set_num_threads(1)
def faults_of_a_step():
    for _ in range(3):
        before = getrusage(RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2**21) for _ in range(16)]
        del tensors
    return getrusage(RUSAGE_SELF).ru_minflt - before
mib = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
print(faults_of_a_step())
with memory_kept():
    with memory_kept():  # as a group's within a sweep's
        print(faults_of_a_step())
    print(mib())
print(mib())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not answer.stdout:
        pytest.skip("malloc is not glibc's")
    before, kept, held, left = (int(line) for line in answer.stdout.split())
    assert 0 <= kept < 0.2 * before  # a block or two may not fit where the last ones were
    assert held - left > 100
