"""Folders and files that appear whole or not at all.

Work happens beside the target under a hidden name; a rename puts it in place. Whatever ends the
work early, an error, Ctrl-C or a full disk, removes what was written so far. Only a kill leaves
the hidden folder behind, and never a target that is half one thing and half another.
"""

import json
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InvalidInput


def check_target(target: Path, *, force: bool, sources: tuple[Path, ...] = ()) -> Path:
    """The real path of the folder or file to be made, after making sure that making it loses nothing.

    Raises:
        InvalidInput: it exists and ``force`` is not given, or replacing it would delete a source.
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
    """Raises InvalidInput where the disk of ``target`` has less than ``needed`` bytes free."""
    existing = next(folder for folder in (target, *target.parents) if folder.exists())
    disk = shutil.disk_usage(existing)
    if disk.free < needed and disk.total:  # what is no disk (/proc) has no size, and refuses by itself
        raise InvalidInput(f"{target}: needs {needed:,} bytes and its disk has {disk.free:,} free; free some, or name another")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` to write in; it becomes ``target`` when the block ends well.

    Raises:
        InvalidInput: the place cannot be written to, or something else appeared there meanwhile.
    """
    with _staged([target]) as [folder]:
        folder.mkdir()
        yield folder
        _sync_folder(folder)


@contextmanager
def staged_files(targets: list[Path]) -> Iterator[list[Path]]:
    """A hidden path beside each target to write to; all are put in place when the block ends well, or none.

    Raises:
        InvalidInput: as `staged`.
    """
    for target in targets:
        if target.is_dir():
            raise InvalidInput(f"{target}: is a folder; name a file")
    with _staged(targets) as partial:
        yield partial


@contextmanager
def _staged(targets: list[Path]) -> Iterator[list[Path]]:
    """A hidden path beside each target; what is made there takes the targets' places when the block ends well.

    What was there before (see `check_target`) is moved aside first and deleted last, and moved back
    where a new one cannot take its place.
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
                with suppress(OSError):  # it holds something, or was never made
                    folder.rmdir()
        raise


def _put_back(aside: Path, target: Path, was_placed: bool) -> None:
    if was_placed:
        _remove(target)
    if aside.exists():
        aside.rename(target)


@contextmanager
def _os_errors_about(targets: list[Path]) -> Iterator[None]:
    """What the system says no to, as one message that names the place."""
    try:
        yield
    except OSError as error:
        names = ", ".join(map(str, targets))
        reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise InvalidInput(f"{names}: cannot be written ({reason}); nothing was changed, name another place") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and a request to end wait until the block is done, so that it happens whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    waiting: list[tuple] = []
    handlers = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.getsignal(number)
            if handlers[number] is not None:  # None: not Python's to change
                signal.signal(number, lambda *caught: waiting.append(caught))
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0][0])


def _missing_parents(target: Path) -> list[Path]:
    """The folders above the target that are not there yet, the outermost first."""
    return [folder for folder in reversed(target.parents) if not folder.exists()]


def _remove(path: Path) -> None:
    """The folder or file, where there is one; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_taken(target: Path) -> bool:
    """Something is there that replacing would lose; an empty folder is nothing."""
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _sync_folder(folder: Path) -> None:
    """The folder's own entries on the disk, where the system can do so (Windows and some shares cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        sync(file)


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def sync_path(path: Path) -> None:
    """`sync` for a file that is already closed."""
    with open(path, "rb+") as file:
        sync(file)


def sync(file) -> None:
    """Returns when the file's bytes are on the disk, not only on their way."""
    file.flush()
    os.fsync(file.fileno())
