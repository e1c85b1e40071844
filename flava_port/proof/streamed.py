"""Models whose weights stay in their files: the weights of a block are read when it runs, and let go when it has run.

A block is a layer of a transformer, embeddings, a norm, a pooler, a projection, a head, or a part of the codebook. Two
models have blocks of the same names, which are the converted ones. What stands between the blocks, a class token and the
logit scale, is small and stays in memory.
"""

import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import NotFaithful
from ..files.tensors import TensorSource
from ..files.torch_tensors import dtype_of, load, mapped
from ..target.keys import HEADS

_BLOCK = re.compile(
    r"flava\.\w+_model\.(encoder\.layer\.\d+|embeddings|layernorm|pooler\.dense)\b|flava\.\w+_projection\b"
    rf"|({'|'.join(HEADS)})\b|itm_head\.(pooler\.dense|seq_relationship)|image_codebook\.blocks\.(input|group_\d+\.group\.block_\d+|output\.conv)\b"
)

_HUGE = 1 << 24  # elements: of more than that, a map of the file is not in memory beside what it is cast to

Slot: TypeAlias = tuple[dict[str, Any], str]  # a module's own dict of parameters or buffers, and the name in it


def block_of(key: str) -> str:
    """The name of the block that a converted key belongs to; empty for what stands between the blocks."""
    found = _BLOCK.match(key)
    return found[0] if found else ""


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter or buffer: its converted name, the tensor that holds its values, and the places in the model that it fills.

    Where no tensor holds its values it is zero. ``loaded_as`` is the dtype to which a loader casts the values first.
    """

    name: str
    shape: tuple[int, ...]
    source: TensorSource | None
    slots: Sequence[Slot]
    loaded_as: torch.dtype = torch.float32
    is_parameter: bool = True  # and no buffer

    def load(self, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        """The values, those of floating point in ``dtype``.

        Raises:
            NotFaithful: the tensor has another shape than the model.
        """
        if self.source is None:
            return torch.zeros(self.shape, dtype=dtype, device=device)
        if self.source.shape != self.shape:
            raise NotFaithful(f"{self.name}: shape {list(self.source.shape)}, where the model has {list(self.shape)}")
        if dtype == torch.float64 and self.source.dtype == dtype_of(self.loaded_as) and prod(self.shape) > _HUGE:
            return load(self.source, dtype).to(device)
        value = mapped(self.source)
        return value.to(self.loaded_as).to(device, dtype) if value.is_floating_point() else value.to(device)


@dataclass(eq=False)
class StreamedBlock:
    """A block of a model: its converted name, its module, and the weights of that module and all below it."""

    name: str
    module: nn.Module
    weights: Sequence[Weight]

    def __post_init__(self) -> None:
        self.forward: Callable[..., Any] = self.module.forward  # the module's own, while `running` puts another in its place

    @cached_property
    def nbytes(self) -> int:
        """Of all weights, in float32."""
        return sum(torch.float32.itemsize * prod(weight.shape) for weight in self.weights)

    def load(self, dtype: torch.dtype, device: torch.device | None = None) -> list[Tensor]:
        """All weights, in order."""
        return [weight.load(dtype, device) for weight in self.weights]

    @contextmanager
    def filled(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """The module computes with these weights while the block runs."""
        kept = [(owner, name, owner[name]) for weight in self.weights for owner, name in weight.slots]
        try:
            for weight, tensor in zip(self.weights, tensors, strict=True):
                for owner, name in weight.slots:
                    owner[name] = tensor
            yield
        finally:
            for owner, name, before in kept:
                owner[name] = before


class Streamed:
    """A model of which only what stands between the blocks is in memory.

    ``model`` is on the meta device. ``weight_of`` gives the `Weight` for a key of its state dict and the slots that it
    fills. Keys that are one parameter are asked for once, by the first of them: ``ties`` says which; without it, those that
    are one in the model.
    """

    def __init__(
        self, model: nn.Module, weight_of: Callable[[str, Tensor, Sequence[Slot]], Weight], ties: Mapping[str, str] | None = None
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        first: dict[int, str] = {}
        places: dict[str, list[tuple[str, Tensor, Slot]]] = {}
        for key, value, slot in _places(model):
            leader = first.setdefault(id(value), key) if ties is None else ties.get(key, key)
            places.setdefault(leader, []).append((key, value, slot))
        members: dict[str, list[tuple[str, Weight]]] = {}
        for key, same in places.items():
            weight = weight_of(key, same[0][1], [slot for _, _, slot in same])
            members.setdefault(block_of(weight.name), []).extend((place, weight) for place, _, _ in same)
        self.between = [weight for _, weight in members.pop("", [])]
        modules = dict(model.named_modules())
        self.blocks = {
            name: StreamedBlock(name, modules[_common([key for key, _ in inside])], list(dict.fromkeys(weight for _, weight in inside)))
            for name, inside in members.items()
        }

    @contextmanager
    def running(
        self, call: Callable[..., Any], dtype: torch.dtype, device: torch.device | None = None, *, gradients: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Within the context ``call(block, *args, **kwargs)`` runs in place of each block's forward.

        Yields the weights between the blocks by name, in ``dtype`` and on ``device``.
        """
        between = StreamedBlock("", self.model, self.between)
        tensors = between.load(dtype, device)
        for tensor in tensors:
            tensor.requires_grad_(gradients and tensor.is_floating_point())
        own = {name: vars(block.module).get("forward") for name, block in self.blocks.items()}
        try:
            for block in self.blocks.values():
                vars(block.module)["forward"] = partial(call, block)
            with _all_on(device, self.model), between.filled(tensors):
                yield {weight.name: tensor for weight, tensor in zip(self.between, tensors)}
        finally:
            for name, block in self.blocks.items():
                vars(block.module).pop("forward", None)
                if own[name] is not None:
                    vars(block.module)["forward"] = own[name]


@contextmanager
def _all_on(device: torch.device | None, model: nn.Module) -> Iterator[None]:
    """Within the context what the model makes itself, such as the numbers of positions, lies on the device, if one is given."""
    buffers = ((module._buffers, name, value) for module in model.modules() for name, value in module._buffers.items())
    made = [(owner, name, value) for owner, name, value in buffers if device is not None and value is not None and not value.is_meta]
    try:
        for owner, name, value in made:
            owner[name] = value.to(device)
        yield
    finally:
        for owner, name, value in made:
            owner[name] = value


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor, Slot]]:
    """Every parameter and buffer that has no values yet, by its key. A module that stands twice counts as its first."""
    for path, module in model.named_modules():
        for owner in (module._parameters, module._buffers):
            for name, value in owner.items():
                if value is not None and value.is_meta:
                    yield f"{path}.{name}".lstrip("."), value, (owner, name)


def _common(keys: Sequence[str]) -> str:
    """The path of the innermost module that holds all these keys; of the codebook's residual blocks, that of the block."""
    path = os.path.commonpath([key.rpartition(".")[0].replace(".", "/") for key in keys]).replace("/", ".")
    return re.sub(r"(\.block_\d+)\..*", r"\1", path)
