"""Safetensors files, read without mapping them.

The library maps the whole file, which a process with limited memory may not, and gives no offsets;
the format is a length, a JSON header and the data. What the library refuses is refused here too;
`tests/files/test_safetensors_headers.py` holds the two against each other.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

from ..errors import InvalidInput
from ..progress import no_progress
from .dtypes import DTYPES, Dtype
from .pickle_names import UnsupportedTensor
from .tensors import StoredTensor, TensorSource, nbytes, raw_bytes

HEADER_BYTES_MAX = 100_000_000  # the library's own limit

_DTYPES = {dtype.safetensors: dtype for dtype in DTYPES.values() if dtype.safetensors}
# What the format knows besides, with the bits of an element; no weight of FLAVA's is one of these.
_OTHER_BITS = {"U16": 16, "U32": 32, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}


def read_safetensors(path: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """The tensors of a safetensors file, unread.

    Raises:
        InvalidInput: the header is broken, or does not describe the file to its last byte.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= HEADER_BYTES_MAX else b""
        data_bytes = file.seek(0, 2) - 8 - length
    try:
        if len(header) != length or data_bytes < 0:
            raise ValueError("its header reaches past its end")
        entries = json.loads(header, object_pairs_hook=_without_repetition)
        return _tensors(path, 8 + length, data_bytes, entries)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"{path}: a broken or truncated safetensors file ({error}); fetch or copy it again") from None


def _without_repetition(pairs: list[tuple]) -> dict:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return entries


def _tensors(path: Path, data_start: int, data_bytes: int, entries: dict) -> dict[str, StoredTensor | UnsupportedTensor]:
    """Every tensor, one behind another from the first byte of the data to the last."""
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata holds more than texts")
    end = 0
    tensors = {}
    for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, next_end = map(_count, entry["data_offsets"])
        shape = tuple(map(_count, entry["shape"]))
        dtype = _DTYPES.get(entry["dtype"])
        bits = 8 * dtype.itemsize if dtype else _OTHER_BITS[entry["dtype"]]
        if begin != end or next_end < begin:
            raise ValueError(f"{key} does not begin where the tensor before it ends")
        if 8 * (next_end - begin) != prod(shape) * bits:
            raise ValueError(f"{key} has {next_end - begin} bytes, which is not what its shape and dtype say")
        tensors[key] = StoredTensor(path, data_start + begin, dtype, shape) if dtype else UnsupportedTensor(entry["dtype"])
        end = next_end
    if end != data_bytes:
        raise ValueError(f"its tensors have {end} bytes, it holds {data_bytes}")
    return {key: tensors[key] for key in entries}


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


ALIGNMENT = 64  # bytes; where torch.save and safetensors put their data


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
            "dtype": name_of_dtype(tensor.dtype, "safetensors"),
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


def name_of_dtype(dtype: Dtype, kind: str) -> str:
    """What a format calls a dtype: the field of that name."""
    if not (name := getattr(dtype, kind)):
        raise InvalidInput(f"a tensor of {dtype} cannot be written: the format has no name for it")
    return name
