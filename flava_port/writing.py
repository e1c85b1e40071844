"""Writes checkpoints a chunk at a time: safetensors and torch's zip format.

Both writers take `TensorSource`s and hold one chunk in memory. What they write is the same for the same tensors, whatever the machine or the day.
"""

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path

import torch

from .tensors import TensorSource, nbytes, raw_bytes

ALIGNMENT = 64  # bytes; where torch.save and safetensors put their data


def no_progress(_bytes_written: int) -> None:
    """For callers that show no progress."""


_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


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
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
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


@dataclass(frozen=True)
class _StorageReference:
    key: str
    dtype: torch.dtype
    elements: int


class _StateDictPickler(pickle.Pickler):
    """Pickles `TensorSource`s the way torch pickles tensors: by reference to their storages."""

    def __init__(self, file, storages: Mapping[int, tuple[str, TensorSource]]):
        super().__init__(file, protocol=2)
        self.storages = storages

    def persistent_id(self, value):
        if isinstance(value, _StorageReference):
            return ("storage", _STORAGE_TYPES[value.dtype], value.key, "cpu", value.elements)
        return None

    def reducer_override(self, value):
        if id(value) not in self.storages:
            return NotImplemented
        name, tensor = self.storages[id(value)]
        reference = _StorageReference(name, tensor.dtype, prod(tensor.shape))
        stride = tuple(prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        arguments = (reference, 0, tuple(tensor.shape), stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


_STORAGE_TYPES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
}


def _pickled(state_dict: Mapping[str, TensorSource], storages) -> bytes:
    buffer = BytesIO()
    _StateDictPickler(buffer, storages).dump(OrderedDict(state_dict))
    return buffer.getvalue()


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
