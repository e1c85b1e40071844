"""Checkpoint files: what format they are in, and what tensors they hold, all unread.

Reads torch's zip and legacy formats and safetensors. Knows no rename rule: it gives the state dict
under the names that the file has, the container it was nested in, and what stood beside it.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from .dtypes import Dtype
from .errors import InvalidInput
from .pickle_names import (
    KEY_CHARS_MAX,
    SIZE_MAX,
    Opaque,
    PickledModule,
    PickledTensor,
    Storage,
    UnsupportedTensor,
    shown,
)
from .safetensors_file import HEADER_BYTES_MAX, read_safetensors
from .tensors import StoredTensor
from .unpickle import PICKLE_BYTES_MAX, bounded, is_pickle, read_pickle

CONTAINERS = ("model", "state_dict", "model_state_dict", "module")
# What wrappers (Lightning, DistributedDataParallel, torch.compile, FSDP) put before every key.
PREFIXES = ("model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.")

NESTING_MAX = 4

# The first 8-byte long integer and protocol that torch.save wrote before its zip format (torch < 1.6).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Checkpoint:
    """A state dict in a file, its tensors unread.

    ``tensors`` has the keys without the prefix that all of them share; ``name_in_file`` gives a
    key as the file has it.
    """

    path: Path
    format: str
    tensors: Mapping[str, StoredTensor | UnsupportedTensor]
    container: str = ""
    prefix: str = ""
    module_class: str = ""
    ignored: tuple[str, ...] = ()

    def name_in_file(self, key: str) -> str:
        return self.prefix + key


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint in ``path``: torch zip, torch legacy or safetensors, recognised by its bytes.

    Raises:
        InvalidInput: no such file, not a file, not a checkpoint, broken, or a pickle that names
            something which is not on the list of harmless names.
    """
    path = Path(path)
    check_is_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_BYTES_MAX:
        return _checkpoint(path, "safetensors", read_safetensors(path))
    try:
        if head[:4] == b"PK\x03\x04":
            return _checkpoint(path, "torch zip", _read_torch_zip(path))
        if head[:1] == b"\x80" or _is_text_pickle(path):
            return _checkpoint(path, "torch legacy", _read_torch_legacy(path))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None
    raise InvalidInput(f"{path}: not a checkpoint: neither a torch file (zip or legacy) nor safetensors")


def check_is_file(path: Path) -> None:
    """Raises InvalidInput unless ``path`` is a readable file that holds something."""
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


# ------------------------------------------------------------------------------------ torch, zip


def _read_torch_zip(path: Path) -> Any:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            if len(records) != len(archive.infolist()):
                raise InvalidInput("a zip file that holds one name twice; refused")
            pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InvalidInput("a zip file, but not one that torch.save wrote (it holds no single data.pkl)")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in records:
                raise InvalidInput("a TorchScript archive holds code, not a state dict; save the state dict instead")
            if f"{root}byteorder" in records and _read_record(archive, f"{root}byteorder", 16) != b"little":
                raise InvalidInput("written on a big-endian machine; save it again on a little-endian one")
            data = _read_record(archive, pickles[0], PICKLE_BYTES_MAX)
            return read_pickle(BytesIO(data), _ZipStorages(file, root, records))
    except _ZIP_ERRORS as error:
        raise InvalidInput(f"a broken or truncated zip file ({shown(error)}); fetch or copy it again") from None


# What zipfile raises, here and there, for bytes that are no proper zip file.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    OSError,
)


def _read_record(archive: zipfile.ZipFile, name: str, bytes_max: int) -> bytes:
    """A small record, after making sure that reading it costs no more than its bytes in the file."""
    record = _stored_as_is(archive.getinfo(name))
    if record.file_size > bytes_max:
        raise InvalidInput(f"its record {shown(name)} has {record.file_size:,} bytes, too many for a checkpoint")
    return archive.read(name)


def _stored_as_is(record: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if record.compress_type != zipfile.ZIP_STORED:
        raise InvalidInput(f"its record {shown(record.filename)} is compressed; torch.save never does that: save it again")
    return record


class _ZipStorages:
    """Finds a storage's bytes in the archive, once per storage, and checks that they are all there."""

    def __init__(self, file: BinaryIO, root: str, records: Mapping[str, zipfile.ZipInfo]):
        self.file, self.root, self.records = file, root, records
        self.bytes_in_file = os.stat(file.fileno()).st_size
        self.known: dict[str, Storage] = {}

    def __call__(self, reference: tuple) -> Storage:
        storage = _known_storage(reference, self.known)
        if storage.start < 0:
            storage.start = self._start(storage)
        return storage

    def _start(self, storage: Storage) -> int:
        record = self.records.get(f"{self.root}data/{storage.key}")
        if record is None:
            raise InvalidInput(f"storage {storage.key!r} is missing from the archive")
        if _stored_as_is(record).file_size != storage.nbytes:
            raise InvalidInput(f"storage {storage.key!r} has {record.file_size:,} bytes where the pickle says {storage.nbytes:,}")
        self.file.seek(record.header_offset)
        header = self.file.read(30)  # the local file header; its name and extra field follow
        if header[:4] != b"PK\x03\x04":
            raise InvalidInput(f"storage {storage.key!r} is not where the archive says")
        start = record.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        if start + storage.nbytes > self.bytes_in_file:
            raise InvalidInput(f"storage {storage.key!r} reaches past the end of the file; it is truncated")
        return start


def _known_storage(reference: tuple, known: dict[str, Storage]) -> Storage:
    """The storage that a persistent id ``('storage', type, key, location, numel)`` describes, one object each."""
    if len(reference) not in (5, 6) or reference[0] != "storage":
        raise InvalidInput("the pickle refers to something that is not a tensor storage")
    _, dtype, key, _location, numel, *view = reference
    if view and view[0] is not None:
        raise InvalidInput("storages that are views of storages (torch < 0.4) are not read; save it again")
    if not isinstance(dtype, Dtype | None) or type(numel) is not int or not 0 <= numel < SIZE_MAX:
        raise InvalidInput("the pickle describes a storage of an unknown type or an impossible size")
    if not isinstance(key, str) or key != shown(key):
        raise InvalidInput("the pickle describes a storage that has no proper name")
    storage = Storage(key, dtype, numel * (dtype.itemsize if dtype else 1))
    first = known.setdefault(key, storage)
    if (first.dtype, first.nbytes) != (storage.dtype, storage.nbytes):
        raise InvalidInput(f"storage {key!r} is described in two ways")
    return first


# --------------------------------------------------------------------------------- torch, legacy


def _is_text_pickle(path: Path) -> bool:
    """Pickles of the first protocols have no magic byte; torch.save never wrote one, and people may."""
    with open(path, "rb") as file:
        return is_pickle(file)


def _read_torch_legacy(path: Path) -> Any:
    """Five pickles (magic, protocol, system, the object, storage keys), then the storages in that order."""
    storages: dict[str, Storage] = {}
    storage_of = partial(_known_storage, known=storages)
    with open(path, "rb") as file:
        text = bounded(file)
        if read_pickle(text, storage_of) != _LEGACY_MAGIC:
            raise InvalidInput("a pickle, but not one that torch.save wrote")
        _protocol, system = read_pickle(text, storage_of), read_pickle(text, storage_of)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise InvalidInput("written on a big-endian machine; save it again on a little-endian one")
        content = read_pickle(text, storage_of)
        keys = read_pickle(text, storage_of)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
            raise InvalidInput("its list of storages does not match its pickle")
        _find_storages(file, text.tell(), [storages[key] for key in keys])
    return content


def _find_storages(file: BinaryIO, position: int, storages: Iterable[Storage]) -> None:
    """Sets where each storage starts: one behind another from a position on, each behind the count of its elements."""
    bytes_in_file = os.stat(file.fileno()).st_size
    for storage in storages:
        file.seek(position)
        elements = int.from_bytes(file.read(8), "little")
        storage.start = position + 8
        position = storage.start + storage.nbytes
        if position > bytes_in_file:
            raise InvalidInput(f"storage {storage.key!r} reaches past the end of the file; it is truncated")
        if elements * (storage.dtype.itemsize if storage.dtype else 1) != storage.nbytes:
            raise InvalidInput(f"storage {storage.key!r} has another size than its pickle says")


# ------------------------------------------------------- from what the file holds to a state dict


def _checkpoint(path: Path, format: str, content: Any) -> Checkpoint:
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


def _is_tensor(value: Any) -> bool:
    return isinstance(value, PickledTensor | StoredTensor | UnsupportedTensor)


def _holds_tensors(value: Any, depth: int = NESTING_MAX) -> bool:
    """A state dict, or a dict that has one under one of the usual names."""
    if isinstance(value, PickledModule):
        return True
    if not isinstance(value, dict) or not depth:
        return False
    return any(map(_is_tensor, value.values())) or any(_holds_tensors(value.get(name), depth - 1) for name in CONTAINERS)


def _common_prefix(keys: Iterable[str]) -> str:
    """What every key begins with of `PREFIXES` (wrappers add one each)."""
    prefix = ""
    while True:
        longer = next((prefix + p for p in PREFIXES if all(key.startswith(prefix + p) for key in keys)), None)
        if longer is None:
            return prefix
        prefix = longer


def _stored(path: Path, value: Any) -> StoredTensor | UnsupportedTensor:
    if not isinstance(value, PickledTensor):
        return value
    return StoredTensor(path, value.storage.start, value.dtype, value.shape, value.offset, value.stride)


def _described(content: Any) -> str:
    if _is_tensor(content):
        return "a single tensor"
    return f"a {content.class_name if isinstance(content, Opaque) else type(content).__name__}"


def _summary(content: dict) -> str:
    names = [shown(name) for name in list(content)[:5]]
    return "it holds " + ", ".join(names) + (", ..." if len(content) > 5 else "") if names else "it is empty"
