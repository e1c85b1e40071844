"""Checkpoints in the original's layout and in torchmultimodal's, written and proven, from models under transformers' names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import NotFaithful
from ..files.checkpoint import open_checkpoint
from ..files.staging import check_space, staged_files
from ..files.tensors import ArrayTensor, TensorSource, first_difference, for_each, nbytes
from ..files.torch_format import write_torch_zip
from ..progress import Progress
from ..rules.layouts import to_torchmultimodal
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, MODEL_PREFIX
from ..target.keys import POSITION_IDS, POSITIONS, TIED
from ..text import count_of, labelled


@dataclass
class Written:
    """Checkpoints that were written and proven: each file with its keys, and lines about how they came about."""

    files: list[tuple[Path, int]]
    described: list[tuple[str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """What was read, written and proven, a line each."""
        lines = [line for line in self.described if line[0] != "note"]
        lines += [("wrote", f"{path}: {count_of(count, 'key')}") for path, count in self.files]
        lines.append(("proven", "every value was read back from the disk and equals its source, bit for bit"))
        return labelled([*lines, *(line for line in self.described if line[0] == "note")])


def write_checkpoints(targets: Sequence[Path], contents: Sequence[Mapping[str, TensorSource]], progress: Progress) -> Written:
    """Writes one state dict to each target, all or none, after reading every value back.

    Raises:
        InvalidInput: a place cannot be written to.
        NotFaithful: what was read back is not what was written.
    """
    total = sum(sum(map(nbytes, {id(t): t for t in content.values()}.values())) for content in contents)
    for target in targets:
        check_space(target, total)
    with staged_files(list(targets)) as partial:
        with progress("write", total) as advance:
            for path, content in zip(partial, contents):
                write_torch_zip(path, content, advance)
        for path, content in zip(partial, contents):
            _prove(path, content)
    return Written([(target, len(content)) for target, content in zip(targets, contents)])


def original_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The original layout of a complete model, its codebook left out; second copies share their source."""
    original: dict[str, TensorSource] = {}
    for key, tensor in _tied(tensors).items():
        if not key.startswith(CODEBOOK_PREFIX):
            original[_source_of(key)] = tensor
    count = tensors[POSITIONS].shape[0]
    original[_source_of(POSITION_IDS)] = ArrayTensor(np.arange(count, dtype=np.int64)[None])
    for drop in FLAVA.drops:
        second = {k.replace(drop.kept, drop.fragment): tensor for k, tensor in original.items() if drop.kept in k}
        original |= second
    return original


def _source_of(key: str) -> str:
    source = FLAVA.source_of(key)
    if FLAVA.rename(source) != key:
        raise NotFaithful(f"{key}: the rules do not lead back to it from {source}")
    return source


def _tied(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The same with one source for both keys of a head's bias, so that one storage holds both."""
    return dict(tensors) | {other: tensors[one] for one, other in TIED if one in tensors}


def codebook_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The codebook of a complete model as OpenAI's encoder names it."""
    codebook = {key.removeprefix(CODEBOOK_PREFIX): tensor for key, tensor in tensors.items() if key.startswith(CODEBOOK_PREFIX)}
    return {CODEBOOK.source_of(key): tensor for key, tensor in codebook.items()}


def torchmultimodal_layout(tensors: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """torchmultimodal's `FLAVAForPreTraining`, codebook included; of a model without heads, its `FLAVAModel`.

    Today's names, which hold no position_ids. A `FLAVAModel` has no scale of the contrastive loss.
    """
    named = {to_torchmultimodal(key): tensor for key, tensor in _tied(tensors).items() if key != POSITION_IDS}
    if all(key.startswith((MODEL_PREFIX, _SCALE)) for key in named):
        return {key.removeprefix(MODEL_PREFIX): tensor for key, tensor in named.items() if key != _SCALE}
    return named


_SCALE = "loss.contrastive_loss.logit_scale"


def _prove(path: Path, expected: Mapping[str, TensorSource]) -> None:
    written = open_checkpoint(path).tensors

    def is_right(key: str) -> bool:
        if key not in written or (written[key].dtype, written[key].shape) != (expected[key].dtype, expected[key].shape):
            return False
        return not first_difference(written[key], expected[key])

    for key, right in for_each(is_right, expected):
        if not right:
            raise NotFaithful(f"{path}: {key} read back is not what was written; the disk or its driver is at fault")
