"""Folders and files that appear whole or not at all.

Work happens beside the target under a hidden name; a rename puts it in place. Whatever ends the
work early, an error, Ctrl-C or a full disk, removes what was written so far. Only a kill leaves
the hidden folder behind, and never a target that is half one thing and half another.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InvalidInput


def check_target(target: Path, *, force: bool, sources: tuple[Path, ...] = ()) -> Path:
    """The real path of the folder or file to be made, after making sure that making it loses nothing.

    Raises:
        InvalidInput: it exists and ``force`` is not given, or replacing it would delete a source.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not _is_empty_folder(target):
        if not force:
            raise InvalidInput(f"{target}: already exists; pass --force to replace it, or name another")
        for source in (*sources, Path.cwd()):
            if Path(os.path.realpath(source)).is_relative_to(target):
                raise InvalidInput(f"{target}: --force would delete {source}, which lies inside; name another")
    return target


def check_space(target: Path, needed: int) -> None:
    """Raises InvalidInput where the disk of ``target`` has less than ``needed`` bytes free."""
    existing = next(folder for folder in (target, *target.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InvalidInput(f"{target}: needs {needed:,} bytes and its disk has {free:,} free; free some, or name another")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` to write in; it becomes ``target`` when the block ends well.

    An existing target (see `check_target`) is replaced: it is moved aside first and deleted last,
    and moved back where the new one cannot take its place.

    Raises:
        InvalidInput: the place cannot be written to.
    """
    made: list[Path] = []
    aside = staging = None
    try:
        made = _make_parents(target.parent)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        staging.chmod(0o777 & ~_umask())
        yield staging
        _sync_folder(staging)
        if target.exists() and not _is_empty_folder(target):
            aside = staging.with_suffix(".replaced")
            target.rename(aside)
        staging.rename(target)
        _sync_folder(target.parent)
        made = []
    except OSError as error:
        raise InvalidInput(f"{target}: cannot be written ({error.strerror or error}); nothing was changed") from None
    finally:
        if aside and aside.exists() and not target.exists():
            aside.rename(target)
        for leftover in (staging, aside):
            if leftover and leftover.exists():
                shutil.rmtree(leftover, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def staged_files(targets: list[Path]) -> Iterator[list[Path]]:
    """A hidden path beside each target to write to; all are put in place when the block ends well."""
    partial = [target.with_name(f".{target.name}.{os.getpid()}.partial") for target in targets]
    made: list[Path] = []
    try:
        for target in targets:
            made = _make_parents(target.parent) + made
        yield partial
        for path, target in zip(partial, targets):
            path.replace(target)
            _sync_folder(target.parent)
        made = []
    except OSError as error:
        names = ", ".join(map(str, targets))
        raise InvalidInput(f"{names}: cannot be written ({error.strerror or error}); nothing was changed") from None
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Makes the folder and what is missing above it; returns what it made, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
    return missing


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync_folder(folder: Path) -> None:
    """The folder's own entries on the disk, where the system can say so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
