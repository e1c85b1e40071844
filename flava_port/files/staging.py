"""Folders and files that appear whole or not at all.

Everything is written beside the target, under a hidden name, and a rename puts it in place. Whatever ends
the work early (an error, Ctrl-C, a full disk) removes what was written so far and leaves the old target as
it was. After a kill (SIGKILL, a power cut) each target is the whole old one, the whole new one, or absent;
hidden files and folders may be left beside it. One of them is the old target, if the kill came between the
two renames that replace it.
"""

import json
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ..errors import InvalidInput


def check_target(target: Path, *, force: bool, sources: tuple[Path, ...] = ()) -> Path:
    """The real path of the folder or file to make, once it is sure that making it loses nothing.

    Raises:
        InvalidInput: it exists and ``force`` is not given, or replacing it would delete a source or the
            current folder.
    """
    target = Path(os.path.realpath(target))
    if _is_taken(target):
        if not force:
            raise InvalidInput(f"{target}: already exists; pass --force to replace it, or name another")
        for source in (*sources, Path.cwd()):
            if Path(os.path.realpath(source)).is_relative_to(target):
                raise InvalidInput(f"{target}: --force would delete {source}, which lies inside; name another")
    return target


def check_space(target: Path, needed: int) -> None:
    """Raises InvalidInput if the disk of ``target`` has fewer than ``needed`` bytes free."""
    existing = next(folder for folder in (target, *target.parents) if folder.exists())
    disk = shutil.disk_usage(existing)
    if disk.free < needed and disk.total:  # a total of 0 is no disk (/proc, say); writing there fails with its own reason
        raise InvalidInput(f"{target}: needs {needed:,} bytes and its disk has {disk.free:,} free; free some, or name another")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Gives a hidden folder beside ``target`` to write in. It becomes ``target`` when the block ends without an error.

    Raises:
        InvalidInput: the place cannot be written to, or something appeared there while the block ran.
    """
    with _staged([target]) as [folder]:
        folder.mkdir()
        yield folder
        _sync_folder(folder)


@contextmanager
def staged_files(targets: list[Path]) -> Iterator[list[Path]]:
    """Gives a hidden path beside each target to write to. When the block ends without an error, all become the targets.

    Raises:
        InvalidInput: as `staged`; or a target is a folder.
    """
    for target in targets:
        if target.is_dir():
            raise InvalidInput(f"{target}: is a folder; name a file")
    with _staged(targets) as partial:
        yield partial


@contextmanager
def _staged(targets: list[Path]) -> Iterator[list[Path]]:
    """Gives a hidden path beside each target; what is made there takes the target's place when the block ends well.

    A target that exists already (`check_target` has allowed it) is first renamed to another hidden name and
    is deleted last. If a new one cannot take its place, all old ones are renamed back.
    """
    new = [target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial") for target in targets]
    old = [path.with_suffix(".replaced") for path in new]
    was_taken = [_is_taken(target) for target in targets]
    missing = list(dict.fromkeys(folder for target in targets for folder in _missing_parents(target)))
    placed: list[Path] = []
    try:
        with _os_errors_about(targets):
            for folder in missing:
                folder.mkdir(exist_ok=True)
            yield new
            with _uninterrupted():
                for target, taken in zip(targets, was_taken):
                    if _is_taken(target) and not taken:
                        raise InvalidInput(f"{target}: appeared while it was being made; look at it, then try again")
                for path, aside, target in zip(new, old, targets):
                    if _is_taken(target):
                        target.rename(aside)
                    path.rename(target)
                    placed.append(target)
                    _sync_folder(target.parent)
                for aside in old:
                    _remove(aside)
    except BaseException:
        with _uninterrupted():
            if len(placed) < len(targets):
                for aside, target in zip(old, targets):
                    _put_back(aside, target, target in placed)
            for leftover in (*new, *old):
                _remove(leftover)
            for folder in reversed(missing):
                with suppress(OSError):  # it was never made, or somebody else has put something in it
                    folder.rmdir()
        raise


def _put_back(aside: Path, target: Path, was_placed: bool) -> None:
    if was_placed:
        _remove(target)
    if aside.exists():
        aside.rename(target)


@contextmanager
def _os_errors_about(targets: list[Path]) -> Iterator[None]:
    """Turns an OSError into an InvalidInput that names the targets and the system's reason."""
    try:
        yield
    except OSError as error:
        names = ", ".join(map(str, targets))
        reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise InvalidInput(f"{names}: cannot be written ({reason}); nothing was changed, name another place") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach only the main thread
        return
    waiting: list[int] = []
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.getsignal(number)
            if handlers[number] is not None:  # None: not installed from Python, so Python could not put it back
                signal.signal(number, lambda caught, _frame: waiting.append(caught))
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _missing_parents(target: Path) -> list[Path]:
    """The folders above the target that do not exist, the outermost first."""
    return [folder for folder in reversed(target.parents) if not folder.exists()]


def _remove(path: Path) -> None:
    """Deletes the folder or file, if there is one. What cannot be deleted stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_taken(target: Path) -> bool:
    """Whether something is there that would be lost; an empty folder is nothing."""
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _sync_folder(folder: Path) -> None:
    """Brings the folder's own entries to the disk, where the system can (Windows and some network shares cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Mapping) -> None:
    """Writes a JSON file, indented, and syncs it to the disk."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_files(folder: Path, files: Mapping[str, str | Mapping]) -> None:
    """Writes files by name: a text as it is, anything else as JSON."""
    for name, content in files.items():
        write_text(folder / name, content) if isinstance(content, str) else write_json(folder / name, content)


def write_text(path: Path, content: str) -> None:
    """Writes a text file and syncs it to the disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(content)
        sync(file)


def sync_path(path: Path) -> None:
    """`sync` for a file that is already closed."""
    with open(path, "rb+") as file:
        sync(file)


def sync(file: IO[Any]) -> None:
    """Returns when the file's bytes are on the disk, and no longer in a cache on their way there."""
    file.flush()
    os.fsync(file.fileno())
