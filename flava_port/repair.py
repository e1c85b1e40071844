"""Rewrites a folder that any release of transformers saved in the form that loads right in all of them."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .conversion.account import account, rename_all
from .conversion.folder import loading_dtype, proven_folder
from .errors import InvalidInput, NotFaithful
from .files.checkpoint import open_checkpoint
from .files.model_folder import weights_file
from .files.owned import check_folder, owned_in
from .files.shards import files_of_weights, weight_map
from .files.staging import check_target, write_json
from .files.tensors import StoredTensor, TensorSource, is_zero
from .progress import Progress, silent
from .reading.sources import Source, open_folder
from .reading.tuned import Tuned, settle_heads
from .target.config import config_json, read_json, read_part_config
from .target.keys import HEADS, TIED, TIED_KEYS
from .target.parts import WHOLE
from .text import READ_BACK, count_of, labelled


@dataclass(frozen=True)
class Repair:
    """What was done to a folder; nothing where it was in the right form already."""

    source: Path
    target: Path
    done: tuple[str, ...]
    count: int  # of tensors
    notes: tuple[str, ...] = ()  # heads that are lacking, or not FLAVA's

    def summary(self) -> str:
        notes = [("note", note) for note in self.notes]
        if not self.done:
            right = f"{self.source}: is in the form that loads right in every release; nothing was changed"
            return "\n".join([right, *([labelled(notes)] if notes else [])])
        lines = [("read", str(self.source)), *(("repaired", line) for line in self.done), *notes]
        lines.append(("wrote", f"{self.target}: {count_of(self.count, 'tensor')}"))
        return labelled([*lines, ("proven", READ_BACK)])


def repair_model_folder(
    converted_path: str | Path,
    repaired_path: str | Path | None = None,
    *,
    keep_zero_biases: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Repair:
    """Rewrites a folder of any of FLAVA's classes, in place or elsewhere, with every value that it still has.

    The form: safetensors in which both keys of each head's bias stand, no position_ids, and a config with every field
    spelled out. Files that are no weights are kept, and so are heads that FLAVA has not; heads that are lacking are named.

    Args:
        converted_path: the folder, from any release.
        repaired_path: the folder to make; None: in place of the other, which stays until the new one is whole and proven.
        keep_zero_biases: take all heads' biases of zero for what they are, and not for lost.
        force: replace ``repaired_path`` where it exists.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: the folder cannot be read, or holds no FLAVA.
        NotFaithful: values are lost already, missing or contradict each other.
    """
    folder = Path(converted_path)
    whole = open_folder(folder)
    config, target = read_part_config(folder, whole.part), _target(folder, repaired_path, force)
    _refuse_what_stands_beside_the_weights(folder)
    tuned = settle_heads(whole, config)
    source, healed = _without_zeros_of_ties(tuned.source)
    weights = _weights(source, tuned)
    if source.part is WHOLE and not keep_zero_biases:
        _refuse_lost(folder, weights)
    content = _content(folder, tuned, config, weights)
    done = (*healed, *_amiss(folder, weights), *_amiss_in_config(folder, content))
    repair = Repair(folder, target, done, len(weights), tuned.lines)
    if not done and repaired_path is None:
        return repair
    old = {path.name for path in _files_that_go(folder)} if repaired_path is None else owned_in(target)
    with proven_folder(target, weights, old, None, progress) as (new, _):
        write_json(new / "config.json", content)
        _give_the_same_permissions(folder, new)
        if repaired_path is not None:
            _bring_along(folder, new)
    return replace(repair, done=done or ("nothing was amiss",))


def _weights(source: Source, tuned: Tuned) -> dict[str, TensorSource]:
    """Every tensor to write, by its key in the file."""
    tensors = account(rename_all([source]), tuned.expected, source.part).tensors()
    return {**{key.removeprefix(source.part.prefix): tensor for key, tensor in tensors.items()}, **tuned.added}


def _content(folder: Path, tuned: Tuned, config: Mapping, weights: Mapping[str, TensorSource]) -> dict[str, Any]:
    """The config.json to write; it names the user's class where that has heads of its own."""
    content = config_json({**config, "tie_word_embeddings": True}, loading_dtype(weights), tuned.source.part)
    own = read_json(folder)[0].get("architectures")
    return {**content, "architectures": own} if tuned.added and own else content


def _target(source: Path, repaired_path: str | Path | None, force: bool) -> Path:
    """Where the repaired folder goes. A place from which it would harm the old one, or whoever works there, is refused."""
    real = Path(os.path.realpath(source))
    if repaired_path is None and Path.cwd().is_relative_to(real):
        raise InvalidInput(f"{source}: is the current folder; go elsewhere, or name another with --repaired_path")
    if repaired_path is None:
        return check_target(source, force=True)
    if Path(os.path.realpath(repaired_path)).is_relative_to(real):
        raise InvalidInput(f"{repaired_path}: lies inside of {source}; name another place")
    return check_folder(Path(repaired_path), force=force, sources=(source,))


def _refuse_what_stands_beside_the_weights(folder: Path) -> None:
    """A pickled file may hold an optimizer, say, which safetensors cannot hold."""
    pickled = [path for path in files_of_weights(weights_file(folder)) if path.suffix != ".safetensors"]
    if beside := ", ".join(name for path in pickled for name in open_checkpoint(path).ignored):
        raise InvalidInput(
            f"{folder}: its weights' file holds {beside} too, which a folder of transformers' has no place for; take these out first"
        )


def _without_zeros_of_ties(source: Source) -> tuple[Source, list[str]]:
    """Leaves out the key of a tied pair that is zero where the other is not: a release that does not tie them never read it."""
    left, healed = dict(source.tensors), []
    for one, other in TIED:
        ours, theirs = left.get(one), left.get(other)
        if not isinstance(ours, StoredTensor) or not isinstance(theirs, StoredTensor) or ours.shape != theirs.shape:
            continue
        if is_zero(ours) != is_zero(theirs):
            zero, kept = (one, other) if is_zero(ours) else (other, one)
            del left[zero]
            healed.append(f"{zero} was zero, as releases leave it that do not tie it to {kept}; it is equal to that again")
    return replace(source, tensors=left), healed


def _refuse_lost(folder: Path, weights: Mapping[str, TensorSource]) -> None:
    """No trained head has a bias of zeros. A release that loses the biases and saves the model again writes zeros for all of them."""
    if lost := [f"{head}.bias" for head in HEADS if f"{head}.bias" in weights and is_zero(weights[f"{head}.bias"])]:
        raise NotFaithful(
            f"{folder}: {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} zero throughout: lost already, when a release of transformers that "
            "did not read them loaded the model and saved it again; convert the original once more. Of a model that was "
            "never trained, pass --keep-zero-biases"
        )


def _amiss(folder: Path, weights: Mapping[str, TensorSource]) -> list[str]:
    """What keeps the weights' files from loading right in some release, a line each."""
    file = weights_file(folder)
    files, found = files_of_weights(file), set(weight_map(file) if file.suffix == ".json" else open_checkpoint(file).tensors)
    missing, others = [key for key in weights if key not in found], sorted(found - set(weights))
    pickled = any(path.suffix != ".safetensors" for path in files)
    lines = [f"{file.name}: pickled weights, written as safetensors"] if pickled else []
    lines += [
        f"{key} added, equal to its other key: some releases read one of the two, some the other" for key in missing if key in TIED_KEYS
    ]
    renamed = [key for key in others if not key.endswith("position_ids")]
    unnamed = [key for key in missing if key not in TIED_KEYS]
    if len(renamed) < len(others):
        lines.append("position_ids left out: releases from 4.31.0 on compute them")
    if renamed:
        lines.append(f"{count_of(len(renamed), 'key')} under another release's names, such as {renamed[0]}: renamed")
    elif unnamed:
        lines.append(f"{count_of(len(unnamed), 'key')} that {file.name} leaves out, such as {unnamed[0]}: named there")
    if not pickled and not all(map(_has_format, files)):
        lines.append("the weights' metadata has no format: releases up to 4.47.1 ask for it")
    return lines


def _has_format(path: Path) -> bool:
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {}).get("format") == "pt"


def _amiss_in_config(folder: Path, content: Mapping) -> list[str]:
    """Fields of the config that are not spelled out as we write them, and names that say what another says too."""
    on_disk = json.loads((folder / "config.json").read_bytes())
    changed = [name for name, value in content.items() if name not in on_disk or json.dumps(on_disk[name]) != json.dumps(value)]
    twice = [name for name in on_disk if name == "dtype" or name.endswith("_config_dict")]
    lines = [f"config.json: {', '.join(changed)} spelled out, each number of its own type"] if changed else []
    return lines + ([f"config.json: {', '.join(twice)} left out, which other fields say"] if twice else [])


def _files_that_go(folder: Path) -> list[Path]:
    """The old weights and the old config."""
    weights = weights_file(folder)
    return [weights, *files_of_weights(weights), folder / "config.json"]


def _give_the_same_permissions(source: Path, folder: Path) -> None:
    """Makes the new files readable for whom the old ones were."""
    weights = weights_file(source)
    for path in folder.iterdir():
        shutil.copymode(source / "config.json" if path.name == "config.json" else weights, path)
    shutil.copymode(source, folder)


def _bring_along(source: Path, folder: Path) -> None:
    """Copies everything else that lies in the old folder, with who may read what. Links lead where they led."""
    old = _files_that_go(source)
    for path in source.iterdir():
        copy = folder / path.name
        if path in old or os.path.lexists(copy):
            continue
        if path.is_symlink() and not path.is_file():
            copy.symlink_to(os.path.realpath(path))  # a folder is not copied, wherever it may lie
        elif path.is_dir():
            shutil.copytree(path, copy, symlinks=True)
        else:
            shutil.copy2(path, copy)  # a link to a file, as a hub's cache has them, becomes a copy of that file
