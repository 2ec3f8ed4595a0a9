"""What this machine has: cores, memory that is free, and the speed of a matrix product."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# A process's own context on a GPU, which no other process sees as taken before it is made.
CUDA_CONTEXT_BYTES = 600 * 2**20
# torch itself, once: the processes of a sweep share its pages.
TORCH_BYTES = 250 * 2**20
GIB = 2**30
# glibc's malloc.h: how much free memory stays, how much is asked for in advance, from what size on the kernel is asked
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
_keeping = False


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def device_name(device: str) -> str:
    """Return what results call a device: a GPU's name, or "cpu" with the processor's."""
    if device == "cpu":
        return f"cpu ({platform.processor() or platform.machine()})"
    import torch

    return torch.cuda.get_device_name(device)


def available_memory(device: str) -> int | None:
    """Return the bytes of memory that are free on "cpu" or "cuda:i", within what limits this process; None if unknown.

    Of a CPU it is what Linux says can be taken without swapping, or what the control group leaves if that is less;
    elsewhere all the memory there is.
    """
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = [bytes_ for bytes_ in (_free(), _left_of_control_group()) if bytes_ is not None]
    if not found:
        with suppress(ValueError, OSError, AttributeError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(found), 0) if found else None


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let freed memory stay with this process, as each step asks for the same sizes again; given back at the end.

    Otherwise each large tensor of each step is fresh from the kernel, which clears every page of it: a tenth to a fifth
    of a step. One within another leaves it to the outer one. Nothing happens where the C library is not glibc.
    """
    global _keeping
    library: Any = None
    with suppress(OSError, TypeError):
        library = ctypes.CDLL(None)
    if _keeping or library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    _keeping = True
    # before version 2.35 the largest threshold is 2^25
    _ = library.mallopt(M_MMAP_THRESHOLD, 2**30) or library.mallopt(M_MMAP_THRESHOLD, 2**25)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(M_TOP_PAD, 2**26)
    try:
        yield
    finally:
        _keeping = False
        # what glibc comes to by itself once large blocks were freed; a threshold that was set it moves no more
        for setting, size in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**26), (M_TOP_PAD, 2**17)):
            library.mallopt(setting, size)
        library.malloc_trim(0)


def matrix_flops(device: str) -> float:
    """Return the floating-point operations a second of a float32 matrix product: on one core of a CPU, on a GPU."""
    import torch

    size, before = 512 if device == "cpu" else 8192, torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        a = torch.randn(size, size, device=device)
        seconds = []
        for _ in range(8):
            start = time.perf_counter()
            float((a @ a)[0, 0])
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / min(seconds)


def size_text(n_bytes: int) -> str:
    """Write a number of bytes: "0.02 GiB", "1.4 GiB", "23 GiB", "1.9 TiB", "more than 1,024 PiB"."""
    for unit, power in (("GiB", 3), ("TiB", 4), ("PiB", 5)):
        # whole numbers, as a size may be beyond what a float holds
        hundredths = 100 * n_bytes // 1024**power
        if hundredths < 102_400:
            value = hundredths / 100
            return (
                f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}" if value >= 1 else f"{value:.2f} {unit}"
            )
    return "more than 1,024 PiB"


def _free() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_of_control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the least that this process's control groups (version 2, or the memory one of version 1) leave."""
    left = []
    for place, limit_name, used_name, cache_name in _control_groups(root, own):
        with suppress(OSError, ValueError):
            limit = int((place / limit_name).read_text())  # "max" is no number, and no limit
            used = int((place / used_name).read_text())
            cache = 0
            with suppress(OSError, ValueError):
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                cache = int(stat.get(cache_name, 0))  # files that are given up when memory is short
            if limit < 2**60:  # version 1 writes no limit as a number near 2^63
                left.append(limit - max(used - cache, 0))
    return min(left) if left else None


def _control_groups(root: Path, own: Path) -> list[tuple[Path, str, str, str]]:
    found = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                top, names = root, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                top = root / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # inside a container the path may be that of the host: then the top is the container's own
            inner = top / path.lstrip("/")
            places = [place for place in (inner, *inner.parents) if place == top or top in place.parents]
            found += [(place, *names) for place in places]
    return found
