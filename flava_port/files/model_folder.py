"""A Hugging Face model folder: written a chunk at a time, then read back and proven.

The weights go into safetensors with the metadata that old releases ask for, sharded above a
size; beside them config.json, preprocessor_config.json and conversion.json, the record of what
became of every key.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, NotFaithful
from ..progress import no_progress
from .checkpoint import check_is_file, open_checkpoint
from .pickle_names import UnsupportedTensor
from .safetensors_format import read_safetensors, write_safetensors
from .staging import sync_path, write_json
from .tensors import StoredTensor, TensorSource, are_equal, count_nonfinite, first_difference, for_each, nbytes, raw_bytes

# What save_pretrained of one release or another calls its weights, the first that is there counts.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Key endings that transformers 5.0.0 to 5.3.0 write for LayerNorm's weight and bias (seen by saving with them).
OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def read_weights(folder: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """All weights of a folder that `save_pretrained` wrote, unread: safetensors or .bin, in one file or several.

    Raises:
        InvalidInput: there are none, or a file is broken or missing.
        NotFaithful: one key has two values, in two files or under two releases' names.
    """
    tensors: dict[str, StoredTensor | UnsupportedTensor] = {}
    for file in files_of_weights(weights_file(folder)):
        for key, tensor in read_weights_file(file).items():
            if (today := _today(key)) in tensors and not _are_equal(tensor, tensors[today]):
                raise NotFaithful(f"{folder}: {today} has two values, one of them under {key} in {file.name}; nothing says which is right")
            tensors[today] = tensor
    return tensors


def read_weights_file(file: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """The tensors of one file of a folder, under the names that stand there."""
    check_is_file(file)
    return read_safetensors(file) if file.suffix == ".safetensors" else open_checkpoint(file).tensors


def _are_equal(one: StoredTensor | UnsupportedTensor, other: StoredTensor | UnsupportedTensor) -> bool:
    if not isinstance(one, StoredTensor) or not isinstance(other, StoredTensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return not first_difference(one, other)


def weights_file(folder: Path) -> Path:
    """The file of weights in a folder, or the index of several."""
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise InvalidInput(f"{folder}: no weights in it (none of {', '.join(WEIGHT_FILES)})")
    return folder / name


def _today(key: str) -> str:
    """The key as the model has it, whatever the release that wrote it called it."""
    ending = next((ending for ending in OLD_ENDINGS if key.endswith(ending)), None)
    return key.removesuffix(ending) + OLD_ENDINGS[ending] if ending else key


def files_of_weights(path: Path) -> list[Path]:
    """The file itself, or the files that an index names; they must lie beside it."""
    if path.suffix != ".json":
        return [path]
    names = sorted(set(weight_map(path).values()))
    for name in names:
        if not name or Path(name).name != name or not name.isprintable():
            raise InvalidInput(f"{path}: names the file {name!r}, which does not lie beside it; refused")
    return [path.with_name(name) for name in names]


INDEX_BYTES_MAX = 64 << 20  # a 10b model's has 0.3 MB


def weight_map(index: Path) -> dict[str, str]:
    """Which file an index says each key is in.

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


WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
RECORD = "conversion.json"

# What transformers 4.43 to 4.57 split at; all releases read any number of files of any size.
DEFAULT_SHARD_SIZE = "5GB"

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str | int) -> int:
    """Bytes of ``5GB`` (10^9) or ``5GiB`` (2^30), as transformers' max_shard_size takes them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(text).strip().upper())
    if not match or match[2] not in _UNITS or not (size := int(float(match[1]) * _UNITS[match[2]])):
        raise InvalidInput(f"{text!r} is not a size; write 500MB, 5GB or a number of bytes")
    return size


def shards(tensors: Mapping[str, TensorSource], max_shard_size: int) -> dict[str, dict[str, TensorSource]]:
    """File names with their tensors, in order, each file at most ``max_shard_size`` where one tensor allows it."""
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


def write_weights(folder: Path, files: Mapping[str, Mapping[str, TensorSource]], progress=no_progress) -> None:
    """The weight files, and the index where there are several; `sync_weights` then brings them to the disk."""
    for name, tensors in files.items():
        write_safetensors(folder / name, tensors, progress)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(nbytes(t) for tensors in files.values() for t in tensors.values())},
            "weight_map": {key: name for name, tensors in files.items() for key in tensors},
        }
        write_json(folder / INDEX, index)


def sync_weights(folder: Path, files: Iterable[str]) -> None:
    """Returns when the weight files are on the disk. It takes as long as writing them, and can be waited for meanwhile."""
    for name in files:
        sync_path(folder / name)


@dataclass(frozen=True)
class ProvenTensor:
    """What was found when a written tensor was read back and compared with its source."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    nonfinite: int

    def as_json(self) -> dict:
        return {"file": self.file, "dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}


def prove_weights(folder: Path, files: Mapping[str, Mapping[str, TensorSource]], progress=no_progress) -> dict[str, ProvenTensor]:
    """Reads every written tensor back and compares it with its source, bit for bit.

    Raises:
        NotFaithful: a file holds other keys, shapes, dtypes or bits than were to be written.
    """
    proven: dict[str, ProvenTensor] = {}
    for name, expected in files.items():
        proven |= _prove_file(folder / name, expected, progress)
    return proven


def _prove_file(path: Path, expected: Mapping[str, TensorSource], progress) -> dict[str, ProvenTensor]:
    written = read_safetensors(path)
    if set(written) != set(expected):
        raise NotFaithful(f"{path}: holds other keys than were written; the disk or its driver is at fault")
    return dict(for_each(lambda key: _prove_tensor(path.name, key, written[key], expected[key], progress), expected))


def _prove_tensor(file: str, key: str, written: TensorSource, expected: TensorSource, progress) -> ProvenTensor:
    digest = hashlib.sha256()
    nonfinite = 0
    same = (written.dtype, written.shape) == (expected.dtype, expected.shape)
    if same:
        for ours, theirs in zip(written.chunks(), expected.chunks(), strict=True):
            same = same and are_equal(ours, theirs)
            nonfinite += count_nonfinite(ours, written.dtype)
            digest.update(raw_bytes(ours))
            progress(ours.nbytes)
    if not same:
        raise NotFaithful(f"{file}: {key} read back is not what was written; the disk or its driver is at fault")
    return ProvenTensor(file, str(written.dtype), written.shape, digest.hexdigest(), nonfinite)
