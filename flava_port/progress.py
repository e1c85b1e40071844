"""What a user waits for: bars on a terminal, and work that begins before its result is asked for."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import TypeAlias, TypeVar

from tqdm import tqdm

# advance(n) says that n more bytes are done. Any thread may call it.
Advance: TypeAlias = Callable[[int], object]
# progress("write", total_bytes) opens a context that gives an `Advance`. The total is None where it is not known.
Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Advance]]


def uncounted(_bytes_done: int) -> None:
    """The `Advance` that does nothing: the default of what writes or checks a file."""


@contextmanager
def silent(_what: str, _total: int | None) -> Iterator[Advance]:
    """The `Progress` that shows nothing: the default of every verb's function."""
    yield uncounted


@contextmanager
def bars(what: str, total: int | None) -> Iterator[Advance]:
    """The `Progress` that shows a bar on stderr, if stderr is a terminal."""
    with tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


_Result = TypeVar("_Result")


def in_background(work: Callable[..., _Result], *arguments: object) -> Future[_Result]:
    """Runs ``work`` in a daemon thread and returns its Future; exit does not wait for it.

    ``Future.result`` raises whatever ``work`` raised.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # an error that stayed in the thread would leave `result` waiting forever
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
