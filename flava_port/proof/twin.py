"""What transformers' own loader makes of a folder, observed on a twin of it: the same files and keys, in tensors of a few numbers.

The twin's JSON files are the folder's own, byte for byte. Each of its files of weights has the folder's keys and dtypes, and
each tensor holds one number that stands for its file and key. The real `from_pretrained` loads it. So the loader shows
which config it reads and where every parameter comes from, whatever the folder says of itself, in a second and a few MB
for any size.

Only sizes are not observed: the twin's model is built with the smallest that its class takes. They show in the folder's shapes.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..files.checkpoint import open_checkpoint
from ..files.dtypes import Dtype
from ..files.tensors import UnsupportedTensor
from ..target.config import CONFIG_BYTES_MAX
from ..target.installed import import_transformers, no_garbage_collected, quiet
from ..target.keys import current_name
from ..target.parts import CODEBOOK_PART, PARTS

WEIGHT_ENDINGS = (".safetensors", ".bin")


class Origin(NamedTuple):
    """A tensor in a folder: its file's name, and its key there."""

    file: str
    key: str


@dataclass(frozen=True)
class LoadedAs:
    """What a class's `from_pretrained` ends up with.

    Attributes:
        model_class: the class.
        config: its config object, with the folder's real sizes.
        keys: for each key of its state dict the tensor that its values come from; None where the folder gives it none,
            so that it is random, a default, or nothing at all.
        dtypes: for each key its dtype by torch's name, such as ``float32``.
        frozen: the parameters that training leaves as they are.
        ties: for each key that is one parameter with an earlier key, that earlier key.
        settings: what its modules have besides parameters, by the module's name and the attribute's: epsilons, dropout
            probabilities, numbers of heads, activations, and each module's class under its name alone.
    """

    model_class: str
    config: Any
    keys: Mapping[str, Origin | None]
    dtypes: Mapping[str, str]
    frozen: frozenset[str]
    ties: Mapping[str, str]
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Contents:
    """What a twin is made of: JSON files by name, and the dtype of each key in each file of weights."""

    texts: Mapping[str, bytes]
    weights: Mapping[str, Mapping[str, Dtype]]


class Twin:
    """The twin of one folder, of which each class is loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, LoadedAs] = {}

    @cached_property
    def contents(self) -> Contents:
        return contents_of(self.folder)

    def loaded_as(self, model_class: str) -> LoadedAs:
        """What ``model_class.from_pretrained`` of the folder ends up with under the installed transformers.

        Raises:
            InvalidInput: there are too many keys to tell apart.
            Exception: whatever transformers raises where it refuses the folder.
        """
        if model_class not in self._loaded:
            self._loaded[model_class] = load_twin(self.contents, model_class)
        return self._loaded[model_class]


def contents_of(folder: Path) -> Contents:
    """What a twin of the folder needs of it. No tensor is read; a file that cannot be read as weights is left out."""
    texts: dict[str, bytes] = {}
    weights: dict[str, Mapping[str, Dtype]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json" and path.is_file() and path.stat().st_size <= CONFIG_BYTES_MAX:
            texts[path.name] = path.read_bytes()
        elif path.suffix in WEIGHT_ENDINGS and path.is_file():
            with suppress(InvalidInput):  # such as a trainer's arguments; where the loader asks for it, it misses it in the twin
                weights[path.name] = dict(_dtypes_in(path))
    return Contents(texts, weights)


def _dtypes_in(path: Path) -> Iterator[tuple[str, Dtype]]:
    for key, tensor in open_checkpoint(path).tensors.items():
        if isinstance(tensor, UnsupportedTensor):
            raise InvalidInput(f"{path}: {key} is {tensor}, which no FLAVA has")
        yield key, tensor.dtype


def load_twin(contents: Contents, model_class: str) -> LoadedAs:
    """As `Twin.loaded_as`, of a folder with these contents."""
    origins = [Origin(file, key) for file, dtypes in contents.weights.items() for key in dtypes]
    if len(origins) > _CODES:
        raise InvalidInput(f"the folder has {len(origins):,} tensors; transformers' loader can be observed on at most {_CODES:,}")
    codes = {_code(number): origin for number, origin in enumerate(origins)}
    with quiet(), no_garbage_collected(), tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
        twin = Path(scratch)
        for name, text in contents.texts.items():
            (twin / name).write_bytes(text)
        cls = getattr(import_transformers(), model_class)
        config = cls.config_class.from_pretrained(twin, local_files_only=True)
        small = _smallest(config)
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in cls(deepcopy(small)).state_dict().items()}
        tensors = {origin: torch.full(_shape(origin.key, shapes), code) for code, origin in codes.items()}
        for file, dtypes in contents.weights.items():
            _write(twin / file, {key: tensors[Origin(file, key)].to(getattr(torch, dtype.name)) for key, dtype in dtypes.items()})
        model = cls.from_pretrained(twin, config=small, local_files_only=True)
    return _observed(model, model_class, config, codes)


def _observed(model: nn.Module, model_class: str, config: Any, codes: Mapping[float, Origin]) -> LoadedAs:
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    ties = {key: earlier for key, value in state.items() if (earlier := first.setdefault(id(value), key)) != key}
    return LoadedAs(
        model_class=model_class,
        config=config,
        keys={key: _origin(value.detach(), codes) for key, value in state.items()},
        dtypes={key: str(value.dtype).removeprefix("torch.") for key, value in state.items()},
        frozen=frozenset(key for key, value in state.items() if isinstance(value, nn.Parameter) and not value.requires_grad),
        ties=ties,
        settings=dict(_settings(model)),
    )


def _origin(tensor: Tensor, codes: Mapping[float, Origin]) -> Origin | None:
    """The origin whose number the whole tensor holds, if it holds one."""
    if tensor.is_meta or not tensor.numel():
        return None
    number = float(tensor.reshape(-1)[0])
    return codes.get(number) if bool((tensor == number).all()) else None


# Numbers that every float dtype holds exactly, float16 and bfloat16 too, so that no cast changes them: 30 exponents, 7 bits
# after the leading one, two signs. The 7 bits are never all zero, so that none of them is the 1 of a layer norm.
_MANTISSAS, _EXPONENTS = 127, 30
_CODES = 2 * _MANTISSAS * _EXPONENTS


def _code(number: int) -> float:
    exponent, mantissa = divmod(number // 2, _MANTISSAS)
    return (1 + (mantissa + 1) / 128) * 2.0 ** ((exponent + 14) % _EXPONENTS - 14) * (-1 if number % 2 else 1)


_BEFORE_KEYS = ("flava.", *(part.prefix for part in (*PARTS.values(), CODEBOOK_PART)))


def _shape(key: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the model's key that a key of a file can stand for, under older names and other classes' prefixes too."""
    for name in (key, current_name(key)):
        for prefix in ("", *_BEFORE_KEYS):
            for candidate in (prefix + name, name.removeprefix(prefix)):
                if candidate in shapes:
                    return shapes[candidate]
    return (1,)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(tensors), path, {"format": "pt"})
    else:
        torch.save(dict(tensors), path)


_SMALL = {
    "intermediate_size": 3, "vocab_size": 5, "image_size": 1, "patch_size": 1, "num_channels": 2, "type_vocab_size": 2,
    "max_position_embeddings": 4, "projection_dim": 2, "input_channels": 2, "hidden_size": 4,
}  # fmt: skip


def _smallest(config: Any) -> Any:
    """The config with sizes as small as its class takes them; what else it says stays."""
    small = deepcopy(config)
    for section in (small, *(getattr(small, part.section, None) for part in (*PARTS.values(), CODEBOOK_PART) if part.section)):
        for field, size in _SMALL.items() if section is not None else ():
            if hasattr(section, field):
                setattr(section, field, _fitting(section, field, size))
    return small


def _fitting(section: Any, field: str, size: int) -> int:
    """The size, or the next that goes with the section's heads and its padding token as the real one does."""
    real, heads, padding = getattr(section, field), getattr(section, "num_attention_heads", None), getattr(section, "pad_token_id", None)
    if field == "hidden_size" and isinstance(heads, int) and heads > 0:
        return int(heads + real % heads)
    if field == "vocab_size" and isinstance(padding, int) and -real <= padding < real:
        return max(size, padding + 1, -padding)
    return size


def _settings(model: nn.Module) -> Iterator[tuple[str, object]]:
    for name, module in model.named_modules():
        yield name, type(module).__qualname__
        for attribute, value in vars(module).items():
            if not attribute.startswith("_") and attribute != "name_or_path" and (setting := _plain(value)) is not _NOT_PLAIN:
                yield f"{name}.{attribute}".lstrip("."), setting


_NOT_PLAIN = object()


def _plain(value: object) -> object:
    """A setting in a form that compares; a function is its name."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, tuple | list) and _NOT_PLAIN not in (items := [_plain(item) for item in value]):
        return tuple(items)
    if callable(value) and not isinstance(value, nn.Module):
        return getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__))
    return str(value) if isinstance(value, torch.dtype) else _NOT_PLAIN
