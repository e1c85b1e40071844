"""The weights in a Hugging Face model folder: found and opened, written in shards, read back and proven.

Weights are written as safetensors, in several files with an index if they are larger than a given size.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, NotFaithful
from ..progress import Advance, uncounted
from .checkpoint import errors_about, open_checkpoint
from .safetensors_format import read_safetensors, write_safetensors
from .shards import INDEX, WEIGHT_FILES, WEIGHTS, files_of_weights, no_such_file
from .staging import sync_path, write_json
from .tensors import (
    TensorInFile,
    TensorSource,
    UnsupportedTensor,
    are_equal,
    count_nonfinite,
    first_difference,
    for_each,
    nbytes,
    raw_bytes,
)

# transformers 4.43 to 4.57 split at this size. All releases read any number of files of any size.
DEFAULT_SHARD_SIZE = "5GB"


def read_weights(folder: Path, current_name: Callable[[str], str]) -> dict[str, TensorInFile]:
    """All weights of a folder that `save_pretrained` wrote, not read yet: safetensors or .bin, in one file or several.

    Args:
        folder: the model folder.
        current_name: gives the model's key for a key in a file, which may have an older name.

    Raises:
        InvalidInput: there are no weights, or a file is broken or missing.
        NotFaithful: one key has two values, in two files or under two names.
    """
    tensors: dict[str, TensorInFile] = {}
    for file in files_of_weights(weights_file(folder)):
        for name, tensor in open_checkpoint(file).tensors.items():
            key = current_name(name)
            if key in tensors and not _are_same(tensor, tensors[key]):
                raise NotFaithful(f"{folder}: {key} has two values, one of them under {name} in {file.name}; nothing says which is right")
            tensors[key] = tensor
    return tensors


def _are_same(one: TensorInFile, other: TensorInFile) -> bool:
    if isinstance(one, UnsupportedTensor) or isinstance(other, UnsupportedTensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return not first_difference(one, other)


def weights_file(folder: Path) -> Path:
    """The folder's file of weights, or the index of its several files.

    Raises:
        InvalidInput: there is neither.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if not folder.exists():
        raise no_such_file(folder)
    if name is None:
        raise InvalidInput(f"{folder}: no weights in it (none of {', '.join(WEIGHT_FILES)})")
    return folder / name


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str | int) -> int:
    """The bytes that ``5GB`` (10^9 each) or ``5GiB`` (2^30 each) stand for, as in transformers' max_shard_size.

    Raises:
        InvalidInput: the text is no size, or the size is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(text).strip().upper())
    if not match or match[2] not in _UNITS or not (size := int(float(match[1]) * _UNITS[match[2]])):
        raise InvalidInput(f"{text!r} is not a size; write 500MB, 5GB or a number of bytes")
    return size


def shards(tensors: Mapping[str, TensorSource], max_shard_size: int) -> dict[str, dict[str, TensorSource]]:
    """The tensors of each file to write, by file name and in order.

    No file has more than ``max_shard_size`` bytes of tensors, except one that holds a single larger tensor.
    """
    groups: list[dict[str, TensorSource]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        if groups[-1] and filled + nbytes(tensor) > max_shard_size:
            groups.append({})
            filled = 0
        groups[-1][key] = tensor
        filled += nbytes(tensor)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, start=1)}


def write_weights(folder: Path, files: Mapping[str, Mapping[str, TensorSource]], advance: Advance = uncounted) -> None:
    """Writes the files of weights, and an index if there are several. The files of weights are not synced yet."""
    for name, tensors in files.items():
        write_safetensors(folder / name, tensors, advance)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(nbytes(t) for tensors in files.values() for t in tensors.values())},
            "weight_map": {key: name for name, tensors in files.items() for key in tensors},
        }
        write_json(folder / INDEX, index)


def sync_weights(folder: Path, files: Iterable[str]) -> None:
    """Returns when the files of weights are on the disk. It takes as long as writing them, so other work can go on meanwhile."""
    for name in files:
        sync_path(folder / name)


@dataclass(frozen=True)
class ProvenTensor:
    """A written tensor that was read back and equals its source: where it lies and what it holds."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    nonfinite: int  # how many elements are NaN or infinite

    def as_json(self) -> dict:
        return {"file": self.file, "dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}


def prove_weights(folder: Path, files: Mapping[str, Mapping[str, TensorSource]], advance: Advance = uncounted) -> dict[str, ProvenTensor]:
    """Reads every written tensor back and compares it with its source, bit for bit.

    Raises:
        NotFaithful: a file holds other keys, shapes, dtypes or bits than were written.
    """
    proven: dict[str, ProvenTensor] = {}
    for name, expected in files.items():
        proven |= _prove_file(folder / name, expected, advance)
    return proven


def _prove_file(path: Path, expected: Mapping[str, TensorSource], advance: Advance) -> dict[str, ProvenTensor]:
    with errors_about(str(path)):
        written = read_safetensors(path)
    if set(written) != set(expected):
        raise NotFaithful(f"{path}: holds other keys than were written; the disk or its driver is at fault")
    return dict(for_each(lambda key: _prove_tensor(path.name, key, written[key], expected[key], advance), expected))


def _prove_tensor(file: str, key: str, written: TensorInFile, expected: TensorSource, advance: Advance) -> ProvenTensor:
    differs = NotFaithful(f"{file}: {key} read back is not what was written; the disk or its driver is at fault")
    if isinstance(written, UnsupportedTensor) or (written.dtype, written.shape) != (expected.dtype, expected.shape):
        raise differs
    digest = hashlib.sha256()
    nonfinite = 0
    for ours, theirs in zip(written.chunks(), expected.chunks(), strict=True):
        if not are_equal(ours, theirs):
            raise differs
        nonfinite += count_nonfinite(ours, written.dtype)
        digest.update(raw_bytes(ours))
        advance(ours.nbytes)
    return ProvenTensor(file, str(written.dtype), written.shape, digest.hexdigest(), nonfinite)
