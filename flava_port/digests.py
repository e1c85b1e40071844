"""Digests of files, begun before they are asked for.

A command begins those of its inputs, then imports what it needs and reads headers, in which one core and
the disk have nothing else to do.
"""

import hashlib
import threading
from concurrent.futures import Future
from pathlib import Path

# By path and state: a file that was changed meanwhile is another.
_begun: dict[tuple, Future] = {}


def begin(*paths: str | Path | None) -> None:
    """Digests the paths that are files, each in a thread of its own that no one has to wait for."""
    for path in filter(None, paths):
        try:
            if Path(path).is_file() and (state := _state(path)) not in _begun:
                future = _begun[state] = Future()
                threading.Thread(target=_digest_into, args=(future, Path(path)), daemon=True).start()
        except (OSError, ValueError, RuntimeError):  # whoever opens it says what is wrong with it
            continue


def file_sha256(path: Path) -> str:
    """The file's digest, in hexadecimal."""
    begun = _begun.pop(_state(path), None)
    return begun.result() if begun is not None else _sha256(path)


def _state(path: str | Path) -> tuple:
    path = Path(path).resolve()
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _digest_into(future: Future, path: Path) -> None:
    try:
        future.set_result(_sha256(path))
    except BaseException as error:
        future.set_exception(error)


def _sha256(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
