"""Checkpoints in the original's layout and in torchmultimodal's, made from a model under transformers' keys, written and proven."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import NotFaithful
from ..files.checkpoint import open_checkpoint
from ..files.staging import check_space, staged_files
from ..files.tensors import ArrayTensor, StoredTensor, TensorSource, first_difference, for_each, nbytes
from ..files.torch_format import write_torch_zip
from ..progress import Progress
from ..rules.layouts import WAYS, Layout
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, MODEL_PREFIX
from ..target.keys import POSITION_IDS, POSITIONS, TIED
from ..text import count_of, labelled


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
        return labelled([*lines, ("proven", "every value was read back from the disk and equals its source, bit for bit"), *notes])


def write_checkpoints(
    contents: Mapping[Path, Mapping[str, TensorSource]], described: Sequence[tuple[str, str]], progress: Progress
) -> Written:
    """Writes a state dict to each path, all or none, after reading every value back.

    Raises:
        InvalidInput: a place cannot be written to.
        NotFaithful: what was read back is not what was written.
    """
    total = sum(nbytes(tensor) for content in contents.values() for tensor in {id(t): t for t in content.values()}.values())
    for target in contents:
        check_space(target, total)
    with staged_files(list(contents)) as partial:
        with progress("write", total) as advance:
            for path, content in zip(partial, contents.values()):
                write_torch_zip(path, content, advance)
        for path, content in zip(partial, contents.values()):
            _prove(path, content)
    return Written({target: len(content) for target, content in contents.items()}, described)


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
        return not first_difference(ours, theirs)

    for key, right in for_each(is_right, expected):
        if not right:
            raise NotFaithful(f"{path}: {key} read back is not what was written; the disk or its driver is at fault")
