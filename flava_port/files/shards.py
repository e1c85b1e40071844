"""Files of weights known by their names: one, or several with an index that names the file of each key."""

import json
import os
import re
import stat
from pathlib import Path

from ..errors import InvalidInput

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# The names that releases' save_pretrained gives to weights. The first that exists counts.
WEIGHT_FILES = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")

INDEX_BYTES_MAX = 64 << 20  # the index of a model with 10 billion parameters has 0.3 MB


_ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors", ".json")


def no_such_file(path: Path) -> InvalidInput:
    """The error for a path where nothing is. Where it looks like the name of a repository on the hub, it says how to fetch that."""
    name = path.as_posix()
    if not _ON_THE_HUB.fullmatch(name) or name.endswith(_ENDINGS) or path.parent.exists():
        return InvalidInput(f"{path}: no such file")
    fetch = f"hf download {name} --local-dir {path.name}"
    return InvalidInput(f"{path}: no such file. If that is a repository on the hub, fetch it first, and pass the folder: {fetch}")


def check_is_file(path: Path) -> None:
    """Raises InvalidInput unless ``path`` is a file that can be read and is not empty."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise InvalidInput(f"{path}: is a folder; pass the checkpoint file inside it")
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{path}: is a pipe or a device; save it to a file first")
        if not found.st_size:
            raise InvalidInput(f"{path}: the file is empty; fetch or copy it again")
        open(path, "rb").close()
    except FileNotFoundError:
        raise no_such_file(path) from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


def is_index(path: Path) -> bool:
    """Whether the file's name is that of an index of weight files."""
    return path.name.endswith(".index.json")


def files_of_weights(path: Path) -> list[Path]:
    """``path`` itself if it is a file of weights, or the files that it names if it is an index.

    Raises:
        InvalidInput: the index is broken, or names a file that does not lie beside it.
    """
    if path.suffix != ".json":
        return [path]
    names = sorted(set(weight_map(path).values()))
    for name in names:
        if not name or Path(name).name != name or not name.isprintable():
            raise InvalidInput(f"{path}: names the file {name!r}, which does not lie beside it; refused")
    return [path.with_name(name) for name in names]


def weight_map(index: Path) -> dict[str, str]:
    """The file that an index gives for each key.

    Raises:
        InvalidInput: it is no such index.
    """
    check_is_file(index)
    if index.stat().st_size > INDEX_BYTES_MAX:
        raise InvalidInput(f"{index}: too large for an index of weight files")
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        if all(isinstance(text, str) for pair in found.items() for text in pair):
            return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InvalidInput(f"{index}: not an index of weight files")
