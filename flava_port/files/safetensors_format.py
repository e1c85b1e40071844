"""Safetensors files, read and written: a length, a header in JSON, and the data.

They are not read with the safetensors library: it maps the whole file into memory, which a process with
limited memory may not do, and it does not say where a tensor lies in the file. What the library refuses is
refused here too; `tests/files/test_safetensors_headers.py` compares the two.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..progress import Advance, uncounted
from ..text import shown
from .dtypes import DTYPES
from .tensors import ALIGNMENT, StoredTensor, TensorInFile, TensorSource, UnsupportedTensor, nbytes, raw_bytes

HEADER_BYTES_MAX = 100_000_000  # the library's own limit

_DTYPES = {dtype.safetensors: dtype for dtype in DTYPES.values() if dtype.safetensors}
# The format's other dtypes, with the bits of an element. No weight of FLAVA has one of these.
_OTHER_BITS = {"U16": 16, "U32": 32, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}


class _BrokenHeader(ValueError):
    """What is wrong with a header, said in our own words."""


def read_safetensors(path: Path) -> dict[str, TensorInFile]:
    """The tensors of a safetensors file, not read yet, in the order of the header.

    Raises:
        InvalidInput: the header is broken, or does not account for every byte of the data; the message does not
            name the file.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= HEADER_BYTES_MAX else b""
        data_bytes = file.seek(0, 2) - 8 - length
    try:
        if len(header) != length or data_bytes < 0:
            raise _BrokenHeader("its header reaches past its end")
        entries = json.loads(header, object_pairs_hook=_without_repetition)
        return _tensors(path, 8 + length, data_bytes, entries)
    except _BrokenHeader as error:
        reason = str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        reason = "its header is not what the format asks for"
    raise InvalidInput(f"a broken or truncated safetensors file ({reason}); fetch or copy it again")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise _BrokenHeader("a name stands twice in its header")
    return entries


def _tensors(path: Path, data_start: int, data_bytes: int, entries: dict[str, Any]) -> dict[str, TensorInFile]:
    """The header's tensors, which must follow each other without a gap from the first byte of the data to the last."""
    metadata = entries.pop("__metadata__", {}) or {}  # null is none
    if not all(isinstance(value, str) for value in metadata.values()):
        raise _BrokenHeader("its metadata holds something that is no text")
    end = 0
    tensors: dict[str, TensorInFile] = {}
    for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, next_end = map(_count, entry["data_offsets"])
        shape = tuple(map(_count, entry["shape"]))
        dtype = _DTYPES.get(entry["dtype"])
        bits = 8 * dtype.itemsize if dtype else _OTHER_BITS[entry["dtype"]]
        if begin != end or next_end < begin:
            raise _BrokenHeader(f"{shown(key)} does not begin where the tensor before it ends")
        if 8 * (next_end - begin) != prod(shape) * bits:
            raise _BrokenHeader(f"{shown(key)} has {next_end - begin} bytes, which is not what its shape and dtype say")
        tensors[key] = StoredTensor(path, data_start + begin, dtype, shape) if dtype else UnsupportedTensor(entry["dtype"])
        end = next_end
    if end != data_bytes:
        raise _BrokenHeader(f"its tensors have {end} bytes, and the file holds {data_bytes}")
    return {key: tensors[key] for key in entries}


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise _BrokenHeader(f"{shown(value)} is no size")
    return value


def write_safetensors(path: Path, tensors: Mapping[str, TensorSource], advance: Advance = uncounted) -> None:
    """Writes a safetensors file, with the metadata that every transformers release asks for. It is not synced yet.

    The widest dtypes come first, as the library writes them, so that each tensor is aligned to its elements.

    Raises:
        InvalidInput: the format has no name for a dtype.
    """
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in tensors.items():
        begin, end = end, end + nbytes(tensor)
        header[key] = {
            "dtype": tensor.dtype.name_in("safetensors"),
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            for chunk in tensor.chunks():
                advance(file.write(raw_bytes(chunk)))
