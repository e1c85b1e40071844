"""Work on many tensors by a few threads: reading, comparing and hashing all release the interpreter's lock."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .tensors import TensorSource, nbytes

WORKERS = 2
WORTH_A_THREAD = 16 << 20  # bytes: of less, threads only wait for each other

Result = TypeVar("Result")


def for_each(work: Callable[[str], Result], tensors: Mapping[str, TensorSource]) -> Iterator[tuple[str, Result]]:
    """Each key with what ``work`` makes of it, in order. The first error ends it."""
    if sum(map(nbytes, tensors.values())) < WORTH_A_THREAD:
        yield from ((key, work(key)) for key in tensors)
        return
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from zip(tensors, pool.map(work, tensors))
