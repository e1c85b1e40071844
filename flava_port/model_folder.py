"""The weights of a Hugging Face folder, as any release of transformers wrote them, unread."""

import json
from pathlib import Path

from .checkpoint import check_is_file, open_checkpoint
from .errors import InvalidInput, NotFaithful
from .recognise import Kind, recognise
from .safetensors_file import read_safetensors
from .tensors import StoredTensor, first_difference
from .unpickle import UnsupportedTensor

# What save_pretrained of one release or another calls its weights, the first that is there counts.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Key endings that transformers 5.0.0 to 5.3.0 write for LayerNorm's weight and bias (seen by saving with them).
OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def read_model_folder(folder: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """All weights of a folder that `save_pretrained` wrote, unread: safetensors or .bin, in one file or several.

    Raises:
        InvalidInput: there are none, or a file is broken, missing or not FLAVA's.
        NotFaithful: one key has two values, in two files or under two releases' names.
    """
    tensors: dict[str, StoredTensor | UnsupportedTensor] = {}
    for file in files_of_weights(weights_file(folder)):
        for key, tensor in read_weights_file(file).items():
            if (today := _today(key)) in tensors and not _are_equal(tensor, tensors[today]):
                raise NotFaithful(f"{folder}: {today} has two values, one of them under {key} in {file.name}; nothing says which is right")
            tensors[today] = tensor
    if (kind := recognise(tensors)) is not Kind.HUGGING_FACE:
        raise InvalidInput(f"{folder}: this is {kind.value}, where {Kind.HUGGING_FACE.value} belongs")
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
