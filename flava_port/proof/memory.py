"""Tells the GNU C library's allocator what to do with the memory of large tensors. On other systems nothing is done."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# mallopt(3). An allocation above the first threshold is requested from the system by itself; of freed memory, up to
# the second is kept.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_USUAL, _LARGE, _MOST_KEPT = 128 << 10, 256 << 20, 512 << 20  # bytes: the library's own, one tensor's, one block's


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
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Returns a freed model's memory to the system. The C library would keep it, and the next model would come on top."""
    _malloc("malloc_trim", 0)


def _malloc(function: str, *arguments: int) -> None:
    """Calls one of the allocator's functions, if the library is there."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)
