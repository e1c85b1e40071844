"""The weights of a Hugging Face folder, as any release of transformers wrote them, unread."""

import json
from pathlib import Path

from .checkpoint import check_is_file, open_checkpoint
from .errors import InvalidInput
from .recognise import Kind, recognise
from .safetensors_file import read_safetensors
from .tensors import StoredTensor
from .unpickle import UnsupportedTensor

# What save_pretrained of one release or another calls its weights, the first that is there counts.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Key endings that transformers 5.0.0 to 5.3.0 write for LayerNorm's weight and bias (seen by saving with them).
OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def read_model_folder(folder: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """All weights of a folder that `save_pretrained` wrote, unread: safetensors or .bin, in one file or several.

    Raises:
        InvalidInput: there are none, or a file is broken, missing or not FLAVA's.
    """
    tensors: dict[str, StoredTensor | UnsupportedTensor] = {}
    for file in files_of_weights(weights_file(folder)):
        check_is_file(file)
        found = read_safetensors(file) if file.suffix == ".safetensors" else open_checkpoint(file).tensors
        tensors |= {_today(key): tensor for key, tensor in found.items()}
    if (kind := recognise(tensors)) is not Kind.HUGGING_FACE:
        raise InvalidInput(f"{folder}: this is {kind.value}, where {Kind.HUGGING_FACE.value} belongs")
    return tensors


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
    try:
        names = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidInput(f"{path}: not an index of weight files") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InvalidInput(f"{path}: names the file {name!r}, which does not lie beside it; refused")
    return [path.with_name(name) for name in names]
