"""Checkpoint files: which format a file has, and what tensors it holds, none of them read yet.

Reads torch's zip and legacy formats and safetensors. The keys stay as the file has them, except for a
prefix that all of them share.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..text import few, shown
from .pickle_names import KEY_CHARS_MAX, Opaque, PickledModule, PickledTensor
from .safetensors_format import HEADER_BYTES_MAX, read_safetensors
from .tensors import StoredTensor, TensorInFile, UnsupportedTensor
from .torch_format import is_text_pickle, read_torch_legacy, read_torch_zip

# The names under which training code puts a state dict into a larger dict.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module")
# What wrappers (Lightning, DistributedDataParallel, torch.compile, FSDP) put before every key.
PREFIXES = ("model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.")

NESTING_MAX = 4  # how many containers may lie in each other


@dataclass(frozen=True)
class Checkpoint:
    """The state dict in a file, its tensors not read yet.

    Attributes:
        path: the file; of a folder, its file of weights.
        format: the name of its format, for people.
        tensors: each tensor by its key, without ``prefix``.
        container: the names of the dicts around the state dict, the outermost first, joined by dots.
        prefix: what stands before every key in the file.
        module_class: the class of the pickled module, if the file holds one in place of a state dict.
        ignored: the names of everything else in the file.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInFile]
    container: str = ""
    prefix: str = ""
    module_class: str = ""
    ignored: tuple[str, ...] = ()

    def name_in_file(self, key: str) -> str:
        """The key as the file has it."""
        return self.prefix + key


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint in a file: torch zip, torch legacy or safetensors. The bytes tell which, not the file's name.

    Raises:
        InvalidInput: there is no such file, it is no checkpoint, it is broken, or its pickle names
            something that is not on the list of harmless names.
    """
    path = Path(path)
    check_is_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_BYTES_MAX:
        content = read_safetensors(path)  # its errors name the file themselves
        with _errors_about(path):
            return _checkpoint(path, "safetensors", content)
    with _errors_about(path):
        if head[:4] == b"PK\x03\x04":
            return _checkpoint(path, "torch zip", read_torch_zip(path))
        if head[:1] == b"\x80" or is_text_pickle(path):
            return _checkpoint(path, "torch legacy", read_torch_legacy(path))
        raise InvalidInput("not a checkpoint: neither a torch file (zip or legacy) nor safetensors")


@contextmanager
def _errors_about(path: Path) -> Iterator[None]:
    """Puts the file's path before the message of an InvalidInput."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


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
        raise InvalidInput(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


def file_sha256(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoint(path: Path, format: str, content: Any) -> Checkpoint:
    """The state dict somewhere in what a file holds, and the names of all that stands beside it."""
    module_class = ""
    containers: list[str] = []
    ignored: list[str] = []
    for _depth in range(NESTING_MAX + 1):
        if isinstance(content, PickledModule):
            module_class = content.class_name
            content = content.state_dict()
        if not isinstance(content, dict):
            raise InvalidInput(f"not a checkpoint: it holds {_described(content)}, not a state dict")
        inner = next((name for name in CONTAINERS if _holds_tensors(content.get(name))), None)
        if inner is None:
            break
        ignored += [".".join([*containers, shown(name)]) for name in content if name != inner]
        containers.append(inner)
        content = content[inner]
    else:
        raise InvalidInput(f"not a checkpoint: its dicts are nested more than {NESTING_MAX} deep")
    tensors = {key: value for key, value in content.items() if _is_tensor(value) and isinstance(key, str)}
    if not tensors:
        raise InvalidInput(f"not a checkpoint: no tensors in it ({_summary(content)})")
    for key in tensors:
        if len(key) > KEY_CHARS_MAX or not key.isprintable():
            raise InvalidInput(f"not a checkpoint: the key {shown(key)} is no name of a weight")
    ignored += [".".join([*containers, shown(name)]) for name in content if name not in tensors]
    prefix = _common_prefix(tensors)
    return Checkpoint(
        path=path,
        format=format,
        tensors={key.removeprefix(prefix): _stored(path, value) for key, value in tensors.items()},
        container=".".join(containers),
        prefix=prefix,
        module_class=module_class,
        ignored=tuple(ignored),
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, PickledTensor | StoredTensor | UnsupportedTensor)


def _holds_tensors(value: object, depth: int = NESTING_MAX) -> bool:
    """Whether it is a state dict or a module, or a dict with one in a container."""
    if isinstance(value, PickledModule):
        return True
    if not isinstance(value, dict) or not depth:
        return False
    return any(map(_is_tensor, value.values())) or any(_holds_tensors(value.get(name), depth - 1) for name in CONTAINERS)


def _common_prefix(keys: Iterable[str]) -> str:
    """The longest sequence of `PREFIXES` that every key begins with."""
    prefix = ""
    while True:
        longer = next((prefix + p for p in PREFIXES if all(key.startswith(prefix + p) for key in keys)), None)
        if longer is None:
            return prefix
        prefix = longer


def _stored(path: Path, value: PickledTensor | TensorInFile) -> TensorInFile:
    if not isinstance(value, PickledTensor):
        return value
    return StoredTensor(path, value.storage.start, value.dtype, value.shape, value.offset, value.stride)


def _described(content: object) -> str:
    if _is_tensor(content):
        return "a single tensor"
    return f"a {content.class_name if isinstance(content, Opaque) else type(content).__name__}"


def _summary(content: dict) -> str:
    names = few([str(name) for name in content], 5)
    return "it holds " + ", ".join(map(shown, names)) if names else "it is empty"
