"""Checks that enough memory is free, on Linux, and tells the GNU C library what to do with that of large tensors."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InvalidInput

# mallopt(3). An allocation above the first threshold is requested from the system by itself; of freed memory, up to
# the second is kept.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_USUAL, _LARGE, _MOST_KEPT = 128 << 10, 128 << 20, 512 << 20  # bytes: the library's own, one tensor's, one block's


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Memory that one layer frees serves the next while the block runs.

    Returning it to the system and requesting it again, page by page, takes a quarter of the time that both models run.
    """
    _malloc("mallopt", _M_MMAP_THRESHOLD, _LARGE)
    _malloc("mallopt", _M_TRIM_THRESHOLD, _MOST_KEPT)
    try:
        yield
    finally:
        _malloc("mallopt", _M_MMAP_THRESHOLD, _USUAL)
        _malloc("mallopt", _M_TRIM_THRESHOLD, _USUAL)
        return_freed_memory()


def return_freed_memory() -> None:
    """Returns freed memory to the system. The C library would keep it, and what comes next would come on top."""
    _malloc("malloc_trim", 0)


def _malloc(function: str, *arguments: int) -> None:
    """Calls one of the allocator's functions, if the library is there."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)


def need_memory(needed: int) -> None:
    """Stops before work that takes more memory than there is.

    Raises:
        InvalidInput: it says how much it takes, and how much is free.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise InvalidInput(f"it takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")


def free_memory() -> int | None:
    """How many more bytes this process can have: the system's, a container's or its own limit's; None where nothing tells."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    with suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        status = Path("/proc/self/status").read_text().splitlines()
        used = int(next(line for line in status if line.startswith("VmData")).split()[1]) << 10
        found += [limit - used] if limit != resource.RLIM_INFINITY else []
    return max(0, min(found)) if found else None
