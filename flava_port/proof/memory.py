"""What the GNU C library's allocator does with the memory of large tensors; other systems go without."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# mallopt(3): above which size an allocation is fetched from the system by itself, and how much is kept when freed.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_USUAL, _LARGE, _MOST_KEPT = 128 << 10, 256 << 20, 1 << 30  # bytes; the C library's own, a layer's, all layers' together


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Memory that one layer frees serves the next while the block runs.

    Given back and fetched anew, a page at a time, it takes a quarter of the time that both models run.
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
    """Gives a freed model's memory back to the system; the C library would keep it and the next model come on top."""
    _malloc("malloc_trim", 0)


def _malloc(function: str, *arguments: int) -> None:
    """Calls a function of the allocator's, where there is that library."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)
