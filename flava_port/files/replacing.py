"""Puts a new folder in the place of an old one in which others have files too: theirs stay where they are.

Where the system can swap two names in one step (Linux, macOS), the new folder first gets links to what others
have in the old one, and is then swapped for it. So each file is there at any moment, and the folder is the whole
old one or the whole new one. Elsewhere the old folder stays, and our files in it are renamed away and in, the
config away first and in last: a kill in between leaves a folder that nothing loads, and no file of others is
touched. The record is there as long as any file that it lists.
"""

import ctypes
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidInput


def replace_keeping(new: Path, target: Path, owned: Collection[str], aside: Path) -> bool:
    """Puts ``new`` in the place of ``target``, whose files but for the ``owned`` ones stay. What was replaced ends at ``new`` or ``aside``.

    Returns False, and has done nothing, where two plain renames do as well: there is no such folder, or nothing of
    others in it and no way to swap.

    Raises:
        InvalidInput: others have a file there under a name that the new folder has too.
    """
    if not target.is_dir():
        return False
    theirs = [name for name in os.listdir(target) if name not in owned]
    if clash := sorted(set(theirs) & set(os.listdir(new))):
        raise InvalidInput(f"{target}: others have put {', '.join(clash)} there; move that, or name another folder")
    if _swapped_with_links(new, target, theirs):
        _bring_what_came_meanwhile(new, target, owned)
        return True
    if not theirs:
        return False
    _replace_inside(new, target, owned, aside)
    return True


def _swapped_with_links(new: Path, target: Path, theirs: list[str]) -> bool:
    """Links the others' files into the new folder and swaps both folders. If that fails, the links are gone again."""
    try:
        for name in theirs:
            _link(target / name, new / name)
        _copy_attributes(target, new)
        if _swap(new, target):
            return True
    except OSError:
        pass  # a file system without links, or files of others that may not be linked
    for name in theirs:
        remove(new / name)
    return False


def _link(source: Path, link: Path) -> None:
    """A second name for a file, or a folder with second names for all files in it."""
    if source.is_dir() and not source.is_symlink():
        link.mkdir()
        for path in source.iterdir():
            _link(path, link / path.name)
        _copy_attributes(source, link)
    else:
        os.link(source, link, follow_symlinks=False)


def _copy_attributes(source: Path, folder: Path) -> None:
    shutil.copystat(source, folder)
    with suppress(OSError, AttributeError):  # only root may give a folder away, and not every system has owners
        owner = source.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)


_SWAPS = (("renameat2", True), ("renamex_np", False))  # Linux's function takes the folders that both paths begin in
_HERE, _EXCHANGE = -100, 2


def _swap(one: Path, other: Path) -> bool:
    """Swaps two names in one step. Returns False where the system or the file system has no way to."""
    paths = os.fsencode(one), os.fsencode(other)
    for name, takes_folders in _SWAPS:
        with suppress(OSError, AttributeError):
            function = getattr(ctypes.CDLL(None, use_errno=True), name)
            return function(*((_HERE, paths[0], _HERE, paths[1]) if takes_folders else paths), _EXCHANGE) == 0
    return False


def _bring_what_came_meanwhile(old: Path, target: Path, owned: Collection[str]) -> None:
    """What others wrote into the old folder between the linking and the swap, put into the new one."""
    for path in _files_below(old):
        inside = path.relative_to(old)
        if inside.parts[0] not in owned and not is_same_file(path, target / inside):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / inside)


def _files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder; links are not followed."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in files)
        yield from (Path(root, name) for name in folders if os.path.islink(os.path.join(root, name)))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are names of one file, links themselves not followed."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except OSError:
        return False


def _replace_inside(new: Path, target: Path, owned: Collection[str], aside: Path) -> None:
    """Renames what is owned out of the folder, and the new files in. If that fails, everything is put back."""
    renamed: list[tuple[Path, Path]] = []
    aside.mkdir()
    try:
        for name in sorted(filter(owned.__contains__, os.listdir(target)), key=_order_in, reverse=True):
            (target / name).rename(aside / name)
            renamed.append((target / name, aside / name))
        for name in sorted(os.listdir(new), key=_order_in):
            (new / name).rename(target / name)
            renamed.append((new / name, target / name))
    except BaseException:
        for before, now in reversed(renamed):
            now.rename(before)
        raise


def _order_in(name: str) -> int:
    """The record comes in first and goes last, and the config the other way round."""
    return {"conversion.json": 0, "config.json": 2}.get(name, 1)


def remove(path: Path) -> None:
    """Deletes the folder or file, if there is one. What cannot be deleted stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def files_of_others(folder: Path, target: Path, owned: Collection[str]) -> bool:
    """Whether anything in a folder is neither owned nor a second name of what stands in ``target``."""
    return any(
        path.relative_to(folder).parts[0] not in owned and not is_same_file(path, target / path.relative_to(folder))
        for path in _files_below(folder)
    )
