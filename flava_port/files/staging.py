"""Folders and files that appear whole or not at all.

Everything is written beside the target, in a hidden folder, and a rename puts it in place. Whatever ends
the work early (an error, Ctrl-C, a full disk) removes what was written so far and leaves the old target as
it was. After a kill (SIGKILL, a power cut) each target is the whole old one, the whole new one, or absent; the
hidden folder is left beside it, and the next conversion clears it away. The old target lies in it, if the kill came
between the two renames that replace it. What others have in a target stays in it: see `flava_port.files.replacing`.
"""

import glob
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ..errors import InvalidInput
from .replacing import files_of_others, remove, replace_keeping

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # code that uses it asks first


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
def staged(target: Path, owned: Collection[str] | None = None) -> Iterator[Path]:
    """Gives a hidden folder beside ``target`` to write in. It becomes ``target`` when the block ends without an error.

    ``owned`` are the names in an old folder there that may go; everything else in it stays. None: all may go.

    Raises:
        InvalidInput: the place cannot be written to, or something appeared there while the block ran.
    """
    with _staged([target], owned) as [folder]:
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
def _staged(targets: list[Path], owned: Collection[str] | None = None) -> Iterator[list[Path]]:
    """Gives a hidden path beside each target; what is made there takes the target's place when the block ends well.

    A target that exists already (`check_target` has allowed it) is first renamed into the hidden folder and
    is deleted last. If a new one cannot take its place, all old ones are renamed back.
    """
    stages = [target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial") for target in targets]
    new, old = [stage / "new" for stage in stages], [stage / "old" for stage in stages]
    was_taken = [_is_taken(target) for target in targets]
    missing = list(dict.fromkeys(folder for target in targets for folder in _missing_parents(target)))
    placed: list[Path] = []
    locks: list[IO[str]] = []
    try:
        with _os_errors_about(targets):
            for folder in missing:
                folder.mkdir(exist_ok=True)
            with _uninterrupted():
                for stage in stages:
                    stage.mkdir()
                    locks.append(_lock(stage))
            yield new
            with _uninterrupted():
                for target, taken in zip(targets, was_taken):
                    if _is_taken(target) and not taken:
                        raise InvalidInput(f"{target}: appeared while it was being made; look at it, then try again")
                for path, aside, target in zip(new, old, targets):
                    if owned is None or not replace_keeping(path, target, owned, aside):
                        if _is_taken(target):
                            target.rename(aside)
                        path.rename(target)
                    placed.append(target)
                    _sync_folder(target.parent)
                _clear(stages, locks)
    except BaseException:
        with _uninterrupted():
            if len(placed) < len(targets):
                for aside, target in zip(old, targets):
                    _put_back(aside, target, target in placed)
            _clear(stages, locks)
            for folder in reversed(missing):
                with suppress(OSError):  # it was never made, or somebody else has put something in it
                    folder.rmdir()
        raise


def _put_back(aside: Path, target: Path, was_placed: bool) -> None:
    if was_placed:
        remove(target)
    if aside.exists() and not target.exists():
        aside.rename(target)


def _clear(stages: list[Path], locks: list[IO[str]]) -> None:
    """Removes the hidden folders, and lets go of their locks last."""
    for stage in stages:
        remove(stage)
    for lock in locks:
        lock.close()


_MARK = "flava-port writes here; when it is not at work, this folder can be deleted\n"


def _lock(stage: Path) -> IO[str]:
    """A file in the hidden folder that stays locked while it is open, so as long as this process is at work there."""
    file = open(stage / "lock", "w")  # noqa: SIM115  `_clear` closes it
    file.write(_MARK)
    file.flush()
    if fcntl is not None:
        with suppress(OSError):  # some network shares have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def clear_leftovers(target: Path, ours_in: Callable[[Path], Set[str]]) -> list[str]:
    """Removes what killed runs left beside a target, where nothing in it is anyone else's; says what it did and what it left.

    ``ours_in`` tells the names of the files in a folder that we wrote.
    """
    notes = []
    for stage in sorted(target.parent.glob(f".{glob.escape(target.name)}.????????.partial")):
        if _is_at_work(stage):
            continue
        if _is_all_ours(stage, target, ours_in):
            remove(stage)
            notes.append(f"removed {stage.name}, which a run that was killed had left beside the target")
        else:
            notes.append(f"{stage} is left over from a run that was killed; look at it, and delete it if nothing in it is missed")
    return notes


def _is_at_work(stage: Path) -> bool:
    """Whether a process holds the lock in a hidden folder, or may: without a lock nothing is known."""
    if fcntl is None:
        return True
    try:
        with open(stage / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_all_ours(stage: Path, target: Path, ours_in: Callable[[Path], Set[str]]) -> bool:
    """Whether a hidden folder can be deleted without losing anyone's file."""
    with suppress(OSError):
        inside = {path.name for path in stage.iterdir()}
        if inside <= {"lock"} and time.time() - stage.stat().st_mtime > 60:
            return True  # killed before it had locked it; a run that begins just now may look the same
        if (stage / "lock").read_text() != _MARK or not inside <= {"lock", "new", "old"}:
            return False
        if (stage / "old").exists() and not target.exists():
            return False  # the only old one there is
        folders = [folder for folder in (stage / "new", stage / "old") if folder.is_dir() and not folder.is_symlink()]
        written = {name for folder in folders for name in ours_in(folder)}
        return not any(files_of_others(folder, target, written) for folder in folders)
    return False


@contextmanager
def _os_errors_about(targets: list[Path]) -> Iterator[None]:
    """Turns an OSError into an InvalidInput that names the targets and the system's reason."""
    try:
        yield
    except OSError as error:
        names = ", ".join(map(str, targets))
        reason = (error.strerror or "the system says no more") + (f": {error.filename}" if error.filename else "")
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
