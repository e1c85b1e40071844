"""torch's own files: the zip format, read and written, and the older legacy format, read. No code in them is executed."""

import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InvalidInput
from ..progress import Advance, uncounted
from ..text import shown
from .dtypes import Dtype
from .pickle_machine import PICKLE_BYTES_MAX, bounded, is_pickle, read_pickle
from .pickle_names import SIZE_MAX
from .pickle_objects import Storage, class_of
from .staging import sync_path
from .tensors import ALIGNMENT, TensorSource, nbytes, raw_bytes
from .zip_records import ZIP_ERRORS, Slice, checksum_of, place_of, read_small_record

# The number that a legacy file (written by torch before 1.6) begins with, pickled.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# Deflated weights have about nine tenths of their bytes; of half-precision values in float32 about a third.
INFLATED_BYTES_MAX = 64 << 20
INFLATED_TIMES_MAX = 20


def read_torch_zip(path: Path, first: int = 0, length: int | None = None) -> Any:
    """What a zip file of torch's holds, as plain data, its tensors not read yet.

    ``first`` and ``length`` say which bytes of the file are the zip file; by default all.

    Raises:
        InvalidInput: torch did not write it so, or it is broken; the message does not name the file.
    """
    try:
        with open(path, "rb") as whole:
            size = os.stat(whole.fileno()).st_size
            length = size - first if length is None else length
            if first + length > size:
                raise InvalidInput("reaches past the end of the file; it is truncated")
            file = Slice(whole, first, length)
            with zipfile.ZipFile(file) as archive:
                return _read_archive(file, archive)
    except ZIP_ERRORS as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise InvalidInput(f"a broken or truncated zip file{reason}; fetch or copy it again") from None


def _read_archive(file: Slice, archive: zipfile.ZipFile) -> Any:
    records = {info.filename: info for info in archive.infolist()}
    if len(records) != len(archive.infolist()):
        raise InvalidInput("a zip file that holds one name twice; refused")
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InvalidInput(f"a zip file, but not one that torch.save wrote (it holds no single data.pkl){_other_archive(records)}")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records:
        raise InvalidInput("a TorchScript archive holds code, not a state dict; it takes the state dict of the model that was scripted")
    if (order := records.get(f"{root}byteorder")) and read_small_record(file, order, 16) != b"little":
        raise InvalidInput("written on a big-endian machine; save it again on a little-endian one")
    data = read_small_record(file, records[pickles[0]], PICKLE_BYTES_MAX)
    return read_pickle(BytesIO(data), _ZipStorages(file, root, records))


def _other_archive(records: Iterable[str]) -> str:
    """What else the archive is, where its names tell."""
    if all(name.endswith(".npy") for name in records):
        return "; it is an archive of NumPy arrays"
    inside = [name for name in records if name.endswith((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"))]
    return f"; unpack it and pass {shown(inside[0])}" if inside else ""


class _ZipStorages:
    """Finds where a storage's bytes begin in the archive, once for each storage, and that all of them are there."""

    def __init__(self, file: Slice, root: str, records: Mapping[str, zipfile.ZipInfo]):
        self.file, self.root, self.records = file, root, records
        self.known: dict[str, Storage] = {}
        self.inflated = 0

    def __call__(self, reference: tuple) -> Storage:
        storage = _known_storage(reference, self.known)
        if storage.start < 0:
            self._find(storage)
        return storage

    def _find(self, storage: Storage) -> None:
        record = self.records.get(f"{self.root}data/{storage.key}")
        if record is None:
            raise InvalidInput(f"storage {storage.key!r} is missing from the archive")
        if record.file_size != storage.nbytes:
            raise InvalidInput(f"storage {storage.key!r} has {record.file_size:,} bytes where the pickle says {storage.nbytes:,}")
        place = place_of(self.file, record)
        storage.start, storage.checksum = self.file.first + place.start, checksum_of(record)
        if place.is_deflated:
            storage.deflated = place.nbytes
            self.inflated += storage.nbytes
            if self.inflated > max(INFLATED_BYTES_MAX, INFLATED_TIMES_MAX * self.file.length):
                raise InvalidInput("it inflates to more than weights do; refused")


def _known_storage(reference: tuple, known: dict[str, Storage]) -> Storage:
    """The storage that a persistent id ``('storage', type, key, location, numel)`` describes: one object for each key."""
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


def is_text_pickle(path: Path) -> bool:
    """Whether the file is one pickle. The first protocols begin with no magic byte; torch.save never used them, but people may."""
    with open(path, "rb") as file:
        return is_pickle(file)


def read_torch_legacy(path: Path) -> Any:
    """What a legacy file of torch's holds, as plain data, its tensors not read yet.

    It has five pickles (magic number, protocol, system, the object, the keys of its storages), and then
    the storages in the order of those keys.

    Raises:
        InvalidInput: torch did not write it so, or it is broken; the message does not name the file.
    """
    storages: dict[str, Storage] = {}
    storage_of = partial(_known_storage, known=storages)
    with open(path, "rb") as file:
        text = bounded(file)
        if (first := read_pickle(text, storage_of)) != _LEGACY_MAGIC:
            raise InvalidInput(f"a pickle, but not one that torch.save wrote (it holds a {shown(class_of(first))})")
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
    """Sets where each storage starts. They follow each other from a position on, each after the count of its elements."""
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


def write_torch_zip(path: Path, state_dict: Mapping[str, TensorSource], advance: Advance = uncounted) -> None:
    """Writes a state dict as `torch.save` does (zip format, an OrderedDict of tensors), and syncs it to the disk.

    Keys that have the same source object share one storage, as tied weights do.

    Raises:
        InvalidInput: we know no name for a dtype in this format.
    """
    storages: dict[int, tuple[str, TensorSource]] = {}
    for tensor in state_dict.values():
        storages.setdefault(id(tensor), (str(len(storages)), tensor))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, "archive/data.pkl", _pickled(state_dict, storages))
        _write_record(archive, "archive/byteorder", b"little")
        for name, tensor in storages.values():
            with archive.open(_record(archive, f"archive/data/{name}", nbytes(tensor)), "w") as record:
                for chunk in tensor.chunks():
                    advance(record.write(raw_bytes(chunk)))
        _write_record(archive, "archive/version", b"3\n")
    sync_path(path)


def _write_record(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(_record(archive, name, len(content)), content)


def _record(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """The archive's next record. It has no date, and padding in its extra field aligns its data."""
    record = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    record.file_size = size
    unpadded = archive.start_dir + 30 + len(name) + 4
    padding = -unpadded % ALIGNMENT
    record.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    return record


# The pickle is put together instruction by instruction, because Python's own pickler would have to import the torch
# functions that it names. `tests/files/test_written_files.py` compares it with what torch writes.


def _pickled(state_dict: Mapping[str, TensorSource], storages: Mapping[int, tuple[str, TensorSource]]) -> bytes:
    """An OrderedDict of tensors, each a view of a storage that it names."""
    items = [part for key, tensor in state_dict.items() for part in (_value(key), _tensor(storages[id(tensor)][0], tensor))]
    return b"".join([pickle.PROTO, b"\2", _EMPTY_ORDERED_DICT, pickle.MARK, *items, pickle.SETITEMS, pickle.STOP])


def _tensor(storage: str, tensor: TensorSource) -> bytes:
    """``_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)``, as torch 1.6 and later write it."""
    strides = tuple(prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    storage_type = _global("torch", tensor.dtype.name_in("torch"))
    reference = _tuple(_value("storage"), storage_type, *map(_value, (storage, "cpu", prod(tensor.shape))))
    arguments = _tuple(reference + pickle.BINPERSID, *map(_value, (0, tensor.shape, strides, False)), _EMPTY_ORDERED_DICT)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _value(value: object) -> bytes:
    """The instructions that push a text, a number or a tuple of numbers: its own pickle without the version and the end."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _tuple(*parts: bytes) -> bytes:
    return b"".join([pickle.MARK, *parts, pickle.TUPLE])


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_EMPTY_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
