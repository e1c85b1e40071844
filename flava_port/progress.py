"""What a user waits for: bars on a terminal, and work that begins before its result is asked for."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import TypeAlias, TypeVar

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


def no_progress(_bytes_written: int) -> None:
    """For callers that show no progress."""


_Result = TypeVar("_Result")


def in_background(work: Callable[..., _Result], *arguments: object) -> Future[_Result]:
    """The result to come of work that begins now, in a thread of its own that nobody waits for who stops before."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
