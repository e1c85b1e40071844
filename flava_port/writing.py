"""Writes checkpoints a chunk at a time: safetensors and torch's zip format.

Both writers take `TensorSource`s and hold one chunk in memory. What they write is the same for the same tensors, whatever the machine or the day.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

from .dtypes import Dtype
from .errors import InvalidInput
from .tensors import TensorSource, nbytes, raw_bytes

ALIGNMENT = 64  # bytes; where torch.save and safetensors put their data


def no_progress(_bytes_written: int) -> None:
    """For callers that show no progress."""


def write_safetensors(path: Path, tensors: Mapping[str, TensorSource], progress=no_progress) -> None:
    """A safetensors file with the metadata that every transformers release asks for; not yet synced.

    Wider dtypes come first, as the library writes them: then every tensor is aligned to its elements.
    """
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in tensors.items():
        begin, end = end, end + nbytes(tensor)
        header[key] = {
            "dtype": _name_of(tensor.dtype, "safetensors"),
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            for chunk in tensor.chunks():
                progress(file.write(raw_bytes(chunk)))


def _name_of(dtype: Dtype, kind: str) -> str:
    """What a format calls a dtype: the field of that name."""
    if not (name := getattr(dtype, kind)):
        raise InvalidInput(f"a tensor of {dtype} cannot be written: the format has no name for it")
    return name


def write_torch_zip(path: Path, state_dict: Mapping[str, TensorSource], progress=no_progress) -> None:
    """A state dict as `torch.save` writes it (zip format, an OrderedDict of tensors), on the disk when it returns.

    Keys that hold the very same source object share one storage, as tied weights do.
    """
    storages: dict[int, tuple[str, TensorSource]] = {}
    for tensor in state_dict.values():
        storages.setdefault(id(tensor), (str(len(storages)), tensor))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, "archive/data.pkl", [_pickled(state_dict, storages)])
        _write_record(archive, "archive/byteorder", [b"little"])
        for name, tensor in storages.values():
            with archive.open(_record(archive, f"archive/data/{name}", nbytes(tensor)), "w") as record:
                for chunk in tensor.chunks():
                    progress(record.write(raw_bytes(chunk)))
        _write_record(archive, "archive/version", [b"3\n"])
    sync_path(path)


def _write_record(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes]) -> None:
    content = b"".join(pieces)
    archive.writestr(_record(archive, name, len(content)), content)


def _record(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """A zip entry without a date, its data aligned by padding in the extra field."""
    record = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    record.file_size = size
    unpadded = archive.start_dir + 30 + len(name) + 4
    padding = -unpadded % ALIGNMENT
    record.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    return record


# What follows writes the instructions of a pickle that names torch's functions, which Python's own pickler
# would have to import. `tests/checkpoint_files/test_written_files.py` holds it against torch.


def _pickled(state_dict: Mapping[str, TensorSource], storages: Mapping[int, tuple[str, TensorSource]]) -> bytes:
    """An OrderedDict of tensors, each a view of its storage, which it refers to by name."""
    items = [part for key, tensor in state_dict.items() for part in (_value(key), _tensor(storages[id(tensor)][0], tensor))]
    return b"".join([pickle.PROTO, b"\2", _EMPTY_ORDERED_DICT, pickle.MARK, *items, pickle.SETITEMS, pickle.STOP])


def _tensor(storage: str, tensor: TensorSource) -> bytes:
    """``_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)``, as torch 1.6 and later write it."""
    strides = tuple(prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    reference = _tuple(
        _value("storage"), _global("torch", _name_of(tensor.dtype, "storage")), *map(_value, (storage, "cpu", prod(tensor.shape)))
    )
    arguments = _tuple(reference + pickle.BINPERSID, *map(_value, (0, tensor.shape, strides, False)), _EMPTY_ORDERED_DICT)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _value(value: object) -> bytes:
    """The instructions that give a text, a number or a tuple of numbers: a pickle's own, between its version and its end."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _tuple(*parts: bytes) -> bytes:
    return b"".join([pickle.MARK, *parts, pickle.TUPLE])


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_EMPTY_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


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
