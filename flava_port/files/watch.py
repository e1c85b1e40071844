"""Watches files for changes while they are read, by what the system says of them: another file, size or time."""

import os
from collections.abc import Iterable
from pathlib import Path

from .shards import is_index

State = tuple[int, ...] | None  # None: there is no such file


class Watch:
    """Remembers what given files and folders were like, and says which of their files are no longer so."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._folders = {path: _files_in(path) for path in paths if path.is_dir()}
        files = [file for path in paths for file in (_files_in(path.parent) if is_index(path) else self._folders.get(path, [path]))]
        self._states = {file: _state(file) for file in files}

    def __len__(self) -> int:
        return len(self._states)

    def add(self, files: Iterable[Path]) -> None:
        """Watches these too, from now on."""
        for file in files:
            self._states.setdefault(file, _state(file))

    def changed(self) -> list[Path]:
        """The files that were replaced, written to, added or taken away since."""
        new = [file for folder, files in self._folders.items() for file in _files_in(folder) if file not in files]
        return [file for file, state in self._states.items() if _state(file) != state] + new


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _state(file: Path) -> State:
    """The file's device, number and size, and the times of its last change, of its content and of anything about it, in ns.

    Nobody can set the last of these.
    """
    try:
        found = os.stat(file)
    except (OSError, ValueError):  # the second of a name that no file can have
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
