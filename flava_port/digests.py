"""Digests of files, begun before they are asked for.

A command begins those of its inputs, then imports what it needs and reads headers, in which one core and
the disk have nothing else to do.
"""

import hashlib
from concurrent.futures import Future
from pathlib import Path

from . import background

# By path and state: a file that was changed meanwhile is another.
_begun: dict[tuple, Future] = {}


def begin(*paths: str | Path | None) -> None:
    """Digests the paths that are files, each in a thread of its own."""
    for path in filter(None, paths):
        try:
            if Path(path).is_file() and (state := _state(path)) not in _begun:
                _begun[state] = background.begin(_sha256, Path(path))
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


def _sha256(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
