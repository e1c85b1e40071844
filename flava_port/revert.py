"""A Hugging Face FLAVA folder, ours or any release's, back to an original checkpoint and a codebook."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import check_is_file, open_checkpoint
from .config import read_config
from .errors import InvalidInput, NotFaithful
from .layout import POSITION_IDS, TIED, expected_layout
from .placing import POSITIONS, stop_on
from .progress import Progress, silent
from .recognise import Kind, recognise
from .rules import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from .safetensors_file import read_safetensors
from .staging import check_space, check_target, staged_files
from .tensors import MemoryTensor, StoredTensor, TensorSource, first_difference, nbytes
from .unpickle import UnsupportedTensor
from .writing import write_torch_zip

# What save_pretrained of one release or another calls its weights, the first that is there counts.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Key endings that transformers 5.0.0 to 5.3.0 write for LayerNorm's weight and bias (seen by saving with them).
OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


@dataclass(frozen=True)
class Reversion:
    """What a reversion wrote."""

    folder: Path
    checkpoint: Path
    keys: int
    codebook: Path | None
    codebook_keys: int

    def summary(self) -> str:
        lines = [f"read     {self.folder}", f"wrote    {self.checkpoint}: {self.keys} keys, second copies and position_ids included"]
        if self.codebook:
            lines.append(f"wrote    {self.codebook}: {self.codebook_keys} keys of the codebook")
        lines.append("proven   every value was read back from the disk and equals its source, bit for bit")
        lines.append(f"note     an original checkpoint has no config; convert it with --config_path {self.folder}")
        return "\n".join(lines)


def revert_flava_checkpoint(
    converted_path: str | Path,
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Reversion:
    """Writes the original-layout checkpoint and codebook state dict that the folder was, or could have been, converted from.

    Raises:
        InvalidInput: the folder cannot be read or holds no FLAVA, or a file to be written exists.
        NotFaithful: a weight is missing, misshapen or left over, or a tied bias has two values.
    """
    folder = Path(converted_path)
    targets = [check_target(Path(p), force=force, sources=(folder,)) for p in (checkpoint_path, codebook_path) if p is not None]
    if len(set(targets)) != len(targets):
        raise InvalidInput(f"{targets[0]}: given for the checkpoint and for the codebook; name two files")
    config = read_config(folder)
    tensors = complete(read_model_folder(folder), config)
    if config["init_codebook"] != (codebook_path is not None):
        has = "has a codebook; pass --codebook_path to say where it goes" if config["init_codebook"] else "has no codebook; leave out --codebook_path"
        raise InvalidInput(f"{folder}: {has}")
    contents = [original_state_dict(tensors)]
    if codebook_path is not None:
        codebook = {key: value for key, value in tensors.items() if key.startswith(CODEBOOK_PREFIX)}
        contents.append({CODEBOOK.source_of(key.removeprefix(CODEBOOK_PREFIX)): value for key, value in codebook.items()})
    total = sum(nbytes(tensor) for tensor in tensors.values())
    for target in targets:
        check_space(target, total)
    with staged_files(targets) as partial:
        with progress("write", total) as advance:
            for path, content in zip(partial, contents):
                write_torch_zip(path, content, advance)
        for path, content in zip(partial, contents):
            _prove(path, content)
    return Reversion(folder, targets[0], len(contents[0]), *((targets[1], len(contents[1])) if len(targets) > 1 else (None, 0)))


def read_model_folder(folder: Path) -> dict[str, StoredTensor | UnsupportedTensor]:
    """All weights of a folder that `save_pretrained` wrote, unread: safetensors or .bin, in one file or several.

    Raises:
        InvalidInput: there are none, or a file is broken, missing or not FLAVA's.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise InvalidInput(f"{folder}: no weights in it (none of {', '.join(WEIGHT_FILES)})")
    tensors: dict[str, StoredTensor | UnsupportedTensor] = {}
    for file in _weight_files(folder / name):
        check_is_file(file)
        found = read_safetensors(file) if file.suffix == ".safetensors" else open_checkpoint(file).tensors
        tensors |= {_today(key): tensor for key, tensor in found.items()}
    if (kind := recognise(tensors)) is not Kind.HUGGING_FACE:
        raise InvalidInput(f"{folder}: this is {kind.value}, where {Kind.HUGGING_FACE.value} belongs")
    return tensors


def _today(key: str) -> str:
    """The key as the model has it, whatever the release that wrote it called it."""
    ending = next((ending for ending in OLD_ENDINGS if key.endswith(ending)), None)
    return key.removesuffix(ending) + OLD_ENDINGS[ending] if ending else key


def _weight_files(path: Path) -> list[Path]:
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


def complete(tensors: Mapping[str, StoredTensor | UnsupportedTensor], config: Mapping) -> dict[str, StoredTensor]:
    """Every key of the model in its order, a tied bias under both of its keys.

    Raises:
        NotFaithful: naming what is missing, misshapen, left over, or one bias with two values.
    """
    expected = expected_layout(config).shapes
    found = {key: tensor for key, tensor in tensors.items() if key != POSITION_IDS}
    problems = []
    for one, other in TIED:
        if one in found and other in found and (difference := first_difference(found[one], found[other])):
            problems.append(f"{one} and {other} should be one tensor and differ, {difference}")
        for key, twin in ((one, other), (other, one)):
            if twin in found:
                found.setdefault(key, found[twin])
        if one in found:
            found[other] = found[one]  # one source, so that one storage holds both
    problems += [f"missing {key} {list(shape)}" for key, shape in expected.items() if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in expected]
    for key, shape in expected.items():
        tensor = found.get(key)
        if isinstance(tensor, UnsupportedTensor):
            problems.append(f"{key} is a {tensor.kind} tensor")
        elif tensor is not None and tensor.shape != shape:
            problems.append(f"wrong shape: {key} is {list(tensor.shape)}, the config says {list(shape)}")
    stop_on(problems)
    return {key: found[key] for key in expected}


def original_state_dict(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The original layout of a complete model, its codebook left out; second copies share their source."""
    original: dict[str, TensorSource] = {}
    for key, tensor in tensors.items():
        if not key.startswith(CODEBOOK_PREFIX):
            original[_source_of(key)] = tensor
    count = tensors[POSITIONS].shape[0]
    original[_source_of(POSITION_IDS)] = MemoryTensor(torch.arange(count)[None])
    for drop in FLAVA.drops:
        second = {k.replace(drop.kept, drop.fragment): tensor for k, tensor in original.items() if drop.kept in k}
        original |= second
    return original


def _source_of(key: str) -> str:
    source = FLAVA.source_of(key)
    if FLAVA.rename(source) != key:
        raise NotFaithful(f"{key}: the rules do not lead back to it from {source}")
    return source


def _prove(path: Path, expected: Mapping[str, TensorSource]) -> None:
    written = open_checkpoint(path).tensors
    for key, tensor in expected.items():
        if key not in written or first_difference(written[key], tensor):
            raise NotFaithful(f"{path}: {key} read back is not what was written; the disk or its driver is at fault")
