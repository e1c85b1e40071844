"""Checkpoints in the original's layout and in torchmultimodal's, made from a model under transformers' keys, written and proven."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InvalidInput, NotFaithful
from ..files.checkpoint import open_checkpoint
from ..files.owned import written_in
from ..files.safetensors_format import write_safetensors
from ..files.staging import check_space, check_target, clear_leftovers, staged_files, sync_path
from ..files.tensors import ArrayTensor, StoredTensor, TensorSource, first_difference, for_each, nbytes
from ..files.torch_format import write_torch_zip
from ..progress import Advance, Progress
from ..rules.layouts import WAYS, Layout
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, MODEL_PREFIX
from ..target.keys import POSITION_IDS, POSITIONS, TIED
from ..text import READ_BACK, count_of, labelled


@dataclass(frozen=True)
class Written:
    """Checkpoints that were written and proven: each file with its number of keys, and labelled lines about where they come from."""

    files: Mapping[Path, int]
    described: Sequence[tuple[str, str]]

    def summary(self) -> str:
        """What was read, written and proven, a line each; notes come last."""
        notes = [line for line in self.described if line[0] == "note"]
        lines = [line for line in self.described if line[0] != "note"]
        lines += [("wrote", f"{path}: {count_of(count, 'key')}") for path, count in self.files.items()]
        return labelled([*lines, ("proven", READ_BACK), *notes])


def write_checkpoints(
    contents: Mapping[Path, Mapping[str, TensorSource]], described: Sequence[tuple[str, str]], progress: Progress
) -> Written:
    """Writes a state dict to each path, all or none, after reading every value back.

    Raises:
        InvalidInput: a place cannot be written to.
        NotFaithful: what was read back is not what was written.
    """
    total = sum(nbytes(tensor) for target, content in contents.items() for tensor in _written_once(target, content))
    for target in contents:
        check_space(target, total)
    with staged_files(list(contents)) as partial:
        with progress("write", total) as advance:
            for path, (target, content) in zip(partial, contents.items()):
                write = _write_safetensors if is_safetensors(target) else write_torch_zip
                write(path, content, advance)
        for path, content in zip(partial, contents.values()):
            _prove(path, content)
    notes = [("note", note) for target in contents for note in clear_leftovers(target, written_in)]
    return Written({target: len(content) for target, content in contents.items()}, [*described, *notes])


def _write_safetensors(path: Path, content: Mapping[str, TensorSource], advance: Advance) -> None:
    write_safetensors(path, content, advance)
    sync_path(path)


def _written_once(target: Path, content: Mapping[str, TensorSource]) -> Collection[TensorSource]:
    """The tensors that are written: each once in torch's format, where two keys may have one; in safetensors under each key."""
    return content.values() if is_safetensors(target) else {id(tensor): tensor for tensor in content.values()}.values()


def is_safetensors(target: Path) -> bool:
    """Whether the ending of a file's name says safetensors. Any other says torch's format."""
    return target.suffix.lower() == ".safetensors"


# Endings of other formats, in which nothing is written here.
_OTHERS = (".npz", ".npy", ".h5", ".hdf5", ".keras", ".onnx", ".gguf", ".msgpack", ".json", ".zip", ".tar", ".gz", ".index", ".tflite")


def check_checkpoint(target: Path, *, force: bool, sources: tuple[Path, ...]) -> Path:
    """The real path of the file to make, once it is sure that making it loses nothing.

    Raises:
        InvalidInput: as `check_target`; or the ending of its name says another format.
    """
    if (ending := target.suffix.lower()) in _OTHERS:
        raise InvalidInput(
            f"{target}: checkpoints are written for torch (.pt, .pth, .bin, .ckpt) or as .safetensors, not as {ending}; name another"
        )
    return check_target(target, force=force, sources=sources)


def original_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The original's state dict of a complete model, without its codebook. Second copies are the same tensor, to be stored once."""
    counted = ArrayTensor(np.arange(tensors[POSITIONS].shape[0], dtype=np.int64)[None])
    complete = {**_tied(tensors), POSITION_IDS: counted}
    original = {FLAVA.source_of(key): tensor for key, tensor in complete.items() if not key.startswith(CODEBOOK_PREFIX)}
    if lost := [key for key in complete if not key.startswith(CODEBOOK_PREFIX) and FLAVA.rename(FLAVA.source_of(key)) != key]:
        raise NotFaithful(f"{lost[0]}: the rules do not lead back to it from {FLAVA.source_of(lost[0])}")
    for drop in FLAVA.drops:
        original |= {key.replace(drop.kept, drop.fragment): tensor for key, tensor in original.items() if drop.kept in key}
    return original


def _tied(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The same, with one tensor under both keys of each head's bias, so that it is stored once."""
    return dict(tensors) | {other: tensors[one] for one, other in TIED if one in tensors}


def codebook_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The codebook of a complete model as OpenAI's encoder names it."""
    codebook = {key.removeprefix(CODEBOOK_PREFIX): tensor for key, tensor in tensors.items() if key.startswith(CODEBOOK_PREFIX)}
    return {CODEBOOK.source_of(key): tensor for key, tensor in codebook.items()}


def torchmultimodal_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The state dict of torchmultimodal's `FLAVAForPreTraining`, codebook included; of a model without heads, its `FLAVAModel`'s.

    The names are today's, and there are no position_ids. A `FLAVAModel` has no scale of the contrastive loss.
    """
    named = {WAYS[Layout.TORCHMULTIMODAL].back(key): tensor for key, tensor in _tied(tensors).items() if key != POSITION_IDS}
    scale = "loss.contrastive_loss.logit_scale"
    if all(key.startswith((MODEL_PREFIX, scale)) for key in named):
        return {key.removeprefix(MODEL_PREFIX): tensor for key, tensor in named.items() if key != scale}
    return named


def _prove(path: Path, expected: Mapping[str, TensorSource]) -> None:
    written = open_checkpoint(path).tensors

    def is_right(key: str) -> bool:
        ours, theirs = written.get(key), expected[key]
        if not isinstance(ours, StoredTensor) or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            return False
        return not first_difference(replace(ours, checksum=None), theirs)  # all bytes are compared, so that their sum need not be

    for key, right in for_each(is_right, expected):
        if not right:
            raise NotFaithful(f"{path}: {key} read back is not what was written; the disk or its driver is at fault")
