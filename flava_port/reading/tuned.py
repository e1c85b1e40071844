"""Folders of models that were trained further: heads of FLAVA's that they lack, and heads of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import InvalidInput
from ..files.tensors import TensorSource, UnsupportedTensor
from ..target.keys import HEAD_NAMES
from ..target.known import nearest_shapes_for
from ..target.parts import WHOLE
from ..target.shapes import Shapes
from ..text import count_of, few
from .sources import Source


@dataclass(frozen=True)
class Tuned:
    """What of a folder is FLAVA's and what is not.

    Attributes:
        source: the folder without heads of its own.
        expected: the shape of every key of its class, without those of heads that it lacks.
        added: the tensors of heads of its own, by their keys in the folder.
        lines: what is lacking and what was added, a line each.
    """

    source: Source
    expected: Shapes
    added: Mapping[str, TensorSource]
    lines: tuple[str, ...]


def settle_heads(source: Source, config: Mapping) -> Tuned:
    """Tells FLAVA's keys in a folder from others, by the name that a key begins with.

    Raises:
        InvalidInput: a head of its own holds a tensor that is not dense, or the installed transformers refuses the config.
    """
    prefix = source.part.prefix
    expected = nearest_shapes_for(config, source.part)
    own = {_module(key, prefix) for key in expected}
    added: dict[str, TensorSource] = {}
    for key, tensor in source.tensors.items():
        if _module(key, prefix) not in own:
            if isinstance(tensor, UnsupportedTensor):
                raise InvalidInput(f"{source.checkpoint.path}: {key.removeprefix(prefix)} is {tensor}; {tensor.advice}")
            added[key.removeprefix(prefix)] = tensor
    held = {_module(key, prefix) for key in source.tensors}
    lacking = sorted(HEAD_NAMES - held) if source.part is WHOLE else []
    lines = [f"{', '.join(lacking)}: not in the folder; transformers makes such heads anew, with random weights"] if lacking else []
    if added:
        lines.append(f"{', '.join(few(sorted(added), 4))}: {count_of(len(added), 'tensor')} of heads that FLAVA has not")
    flava = {key: tensor for key, tensor in source.tensors.items() if key.removeprefix(prefix) not in added}
    kept = {key: shape for key, shape in expected.items() if _module(key, prefix) not in lacking}
    return Tuned(replace(source, tensors=flava), kept, added, tuple(lines))


def _module(key: str, prefix: str) -> str:
    return key.removeprefix(prefix).partition(".")[0]
