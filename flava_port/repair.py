"""A folder that any release of transformers saved, rewritten in the form that loads right in all of them."""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .conversion.folder import loading_dtype
from .conversion.sources import read_model_folder
from .errors import InvalidInput, NotFaithful
from .files.checkpoint import open_checkpoint
from .files.model_folder import (
    DEFAULT_SHARD_SIZE,
    files_of_weights,
    parse_size,
    prove_weights,
    read_weights_file,
    shards,
    sync_weights,
    weight_map,
    weights_file,
    write_weights,
)
from .files.staging import check_space, check_target, staged, write_json
from .files.tensors import StoredTensor, UnsupportedTensor, is_zero, nbytes
from .progress import Progress, silent
from .revert import complete
from .target.config import config_json, read_config
from .target.keys import HEADS, TIED, TIED_KEYS
from .target.parts import MODEL, WHOLE
from .text import count_of, labelled


@dataclass(frozen=True)
class Repair:
    """What was done to a folder; nothing where it was in the right form already."""

    source: Path
    target: Path
    done: tuple[str, ...]
    count: int

    def summary(self) -> str:
        if not self.done:
            return f"{self.source}: is in the form that loads right in every release; nothing was changed"
        lines = [
            ("read", str(self.source)),
            *(("repaired", line) for line in self.done),
            ("wrote", f"{self.target}: {count_of(self.count, 'tensor')}"),
        ]
        return labelled([*lines, ("proven", "every value was read back from the disk and equals its source, bit for bit")])


def repair_model_folder(
    converted_path: str | Path,
    repaired_path: str | Path | None = None,
    *,
    keep_zero_biases: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Repair:
    """Rewrites a folder of `FlavaForPreTraining`'s or `FlavaModel`'s, in place or elsewhere, with every value that it still has.

    The form: safetensors in which both keys of each head's bias stand, no position_ids, and a config
    with every field spelled out. Files that are no weights are kept.

    Args:
        converted_path: the folder, from any release.
        repaired_path: the folder to make; None: in place of the other, which stays until the new one is whole and proven.
        keep_zero_biases: take all heads' biases of zero for what they are, and not for lost.
        force: replace ``repaired_path`` where it exists.

    Raises:
        InvalidInput: the folder cannot be read, or holds no FLAVA.
        NotFaithful: values are lost already, missing or contradict each other.
    """
    source = Path(converted_path)
    in_place = repaired_path is None
    tensors, config = read_model_folder(source), read_config(source)
    target = _target(source, None if in_place else Path(repaired_path), force)
    part = WHOLE if any(key.startswith(MODEL.prefix) for key in tensors) else MODEL
    prefix = MODEL.prefix if part is MODEL else ""
    if extra := _beside_the_weights(source):
        raise InvalidInput(
            f"{source}: its weights' file holds {extra} too, which a folder of transformers' has no place for; take these out first"
        )
    tensors, healed = _without_zero_twins({prefix + key: tensor for key, tensor in tensors.items()})
    weights = complete(tensors, config, part)
    if part is WHOLE and not keep_zero_biases:
        _refuse_lost(source, weights)
    weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    content = config_json({**config, "tie_word_embeddings": True}, loading_dtype(weights), part)
    done = (*healed, *_amiss(source, weights, content))
    if not done and in_place:
        return Repair(source, target, (), len(weights))
    _write(source, target, weights, content, progress)
    return Repair(source, target, done or ("nothing was amiss",), len(weights))


def _target(source: Path, repaired_path: Path | None, force: bool) -> Path:
    """Where the repaired folder goes; a place from which it would harm the other, or who works there, is refused."""
    real = Path(os.path.realpath(source))
    if repaired_path is None:
        if Path.cwd().is_relative_to(real):
            raise InvalidInput(f"{source}: is the current folder; go elsewhere, or name another with --repaired_path")
        return check_target(source, force=True)
    if Path(os.path.realpath(repaired_path)).is_relative_to(real):
        raise InvalidInput(f"{repaired_path}: lies inside of {source}; name another place")
    return check_target(repaired_path, force=force, sources=(source,))


def _beside_the_weights(source: Path) -> str:
    """What a pickled file holds besides: an optimizer, say."""
    pickled = [path for path in files_of_weights(weights_file(source)) if path.suffix != ".safetensors"]
    return ", ".join(name for path in pickled for name in open_checkpoint(path).ignored)


def _without_zero_twins(tensors: Mapping) -> tuple[dict[str, StoredTensor | UnsupportedTensor], list[str]]:
    """Where one key of a pair is zero throughout and the other is not, a release untied them: the zero one never was read."""
    left, healed = dict(tensors), []
    for pair in TIED:
        if not all(isinstance(left.get(key), StoredTensor) for key in pair) or left[pair[0]].shape != left[pair[1]].shape:
            continue
        zero = [key for key in pair if is_zero(left[key])]
        if len(zero) == 1:
            [other] = set(pair) - set(zero)
            del left[zero[0]]
            healed.append(f"{zero[0]} was zero, as a release leaves it that does not tie it; it is {other} again")
    return left, healed


def _refuse_lost(source: Path, weights: Mapping[str, StoredTensor]) -> None:
    """A trained model has no head whose bias is zero throughout; what a release that lost them all saved has no other."""
    lost = [f"{head}.bias" for head in HEADS if is_zero(weights[f"{head}.bias"])]
    if lost:
        raise NotFaithful(
            f"{source}: {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} zero throughout: lost already, when a release of transformers that "
            "did not read them loaded the model and saved it again; convert the original once more. Of a model that was "
            "never trained, pass --keep-zero-biases"
        )


def _amiss(source: Path, weights: Mapping[str, StoredTensor], content: Mapping) -> list[str]:
    """What keeps the folder from loading right in some release, a line each."""
    file = weights_file(source)
    files = files_of_weights(file)
    pickled = any(path.suffix != ".safetensors" for path in files)
    found = set(weight_map(file)) if file.suffix == ".json" else set(read_weights_file(file))
    missing, others = [key for key in weights if key not in found], sorted(found - set(weights))
    lines = [f"{file.name}: pickled weights, written as safetensors"] if pickled else []
    lines += [
        f"{key} added, equal to its other key: some releases read one of the two, some the other" for key in missing if key in TIED_KEYS
    ]
    positions = [key for key in others if key.endswith("position_ids")]
    lines += ["position_ids left out: releases from 4.31.0 on compute them"] if positions else []
    renamed = [key for key in others if key not in positions]
    unnamed = [key for key in missing if key not in TIED_KEYS]
    if renamed:
        lines.append(f"{count_of(len(renamed), 'key')} under another release's names, such as {renamed[0]}: renamed")
    elif unnamed:
        lines.append(f"{count_of(len(unnamed), 'key')} that {file.name} leaves out, such as {unnamed[0]}: named there")
    lines += (
        ["the weights' metadata has no format: releases up to 4.47.1 ask for it"]
        if not pickled and not all(map(_has_format, files))
        else []
    )
    return lines + _amiss_in_config(json.loads((source / "config.json").read_bytes()), content)


def _amiss_in_config(on_disk: Mapping, content: Mapping) -> list[str]:
    """What is not spelled out as we write it, and what says the same twice, of which releases read one or the other."""
    changed = [name for name, value in content.items() if name not in on_disk or json.dumps(on_disk[name]) != json.dumps(value)]
    twice = [name for name in on_disk if name == "dtype" or name.endswith("_config_dict")]
    lines = [f"config.json: {', '.join(changed)} spelled out, each number of its own type"] if changed else []
    return lines + ([f"config.json: {', '.join(twice)} left out, which other fields say"] if twice else [])


def _has_format(path: Path) -> bool:
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {}).get("format") == "pt"


def _write(source: Path, target: Path, weights: Mapping[str, StoredTensor], content: dict, progress: Progress) -> None:
    """The whole folder beside its place, proven, then in it; files that are no weights come along."""
    total = sum(map(nbytes, weights.values()))
    check_space(target, total)
    files = shards(weights, parse_size(DEFAULT_SHARD_SIZE))
    with staged(target) as folder, ThreadPoolExecutor(1) as pool:
        with progress("write", total) as advance:
            write_weights(folder, files, advance)
        synced = pool.submit(sync_weights, folder, files)
        with progress("check", total) as advance:
            prove_weights(folder, files, advance)
        write_json(folder / "config.json", content)
        _bring_along(source, folder)
        synced.result()


def _bring_along(source: Path, folder: Path) -> None:
    """Everything else that lies there, and who may read what; links still lead where they led."""
    weights = weights_file(source)
    old = {weights, *files_of_weights(weights)}
    for path in folder.iterdir():
        shutil.copymode(source / "config.json" if path.name == "config.json" else weights, path)
    for path in source.iterdir():
        place = folder / path.name
        if path in old or path.name == "config.json" or os.path.lexists(place):
            continue
        if path.is_symlink() and not path.is_file():
            place.symlink_to(os.path.realpath(path))  # a folder is not copied, wherever it may lie
        elif path.is_dir():
            shutil.copytree(path, place, symlinks=True)
        else:
            shutil.copy2(path, place)  # of a link to a file, as a hub's cache has them, what it leads to
    shutil.copymode(source, folder)
