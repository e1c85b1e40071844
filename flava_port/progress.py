"""Progress bars: on a terminal, none in a pipe, none when asked to be quiet."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from tqdm import tqdm

# progress("write", total_bytes) gives a context in which advance(bytes) may be called from any thread.
Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], object]]]


@contextmanager
def silent(_what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda _bytes: None


@contextmanager
def bars(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar on stderr where that is a terminal."""
    with tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update
