"""Seeded original checkpoints, made a chunk at a time: for the demo, the tests and the benchmarks.

Every tensor is recognisable: no two are alike, none is constant, and their scale lets every part
of the model be seen in its outputs.
"""

import sys
import types
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from .original import CodebookConfig, DalleEncoder, Flava, FlavaConfig
from .tensors import CHUNK_ELEMENTS, MemoryTensor, TensorSource
from .writing import write_torch_zip


@dataclass(frozen=True)
class SeededTensor:
    """Normally distributed values around ``mean``, the same for the same seed, made as they are read."""

    shape: tuple[int, ...]
    seed: int
    scale: float
    mean: float = 0.0
    dtype: torch.dtype = torch.float32

    def chunks(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        total = prod(self.shape)
        for first in range(0, total, CHUNK_ELEMENTS):
            values = torch.randn(min(CHUNK_ELEMENTS, total - first), generator=generator)
            yield values.mul_(self.scale).add_(self.mean).to(self.dtype)


def seeded(key: str, shape: tuple[int, ...], seed: int) -> SeededTensor:
    """The tensor for one key: matrices keep a signal's size, norms lie around 1, all else is small noise."""
    own_seed = zlib.crc32(key.encode()) + (seed << 32)
    is_norm = "layernorm" in key.lower() and key.endswith(".weight")
    if key.endswith("logit_scale"):
        return SeededTensor(shape, own_seed, scale=0.1, mean=2.6592)
    if is_norm:
        return SeededTensor(shape, own_seed, scale=0.2, mean=1.0)
    if len(shape) > 1 and "embeddings.weight" not in key and "token" not in key and "position" not in key:
        return SeededTensor(shape, own_seed, scale=prod(shape[1:]) ** -0.5)
    return SeededTensor(shape, own_seed, scale=0.3)


def original_state_dict(config: FlavaConfig = FlavaConfig(), seed: int = 0) -> dict[str, TensorSource]:
    """A whole original state dict: second copies, tied biases and position_ids included, each sharing its source."""
    with torch.device("meta"):
        meta = Flava(config).state_dict()
    tensors: dict[str, TensorSource] = {}
    for key, value in meta.items():
        kept = key.replace("_encoder.embeddings.", "_encoder.module.embeddings.").replace(".decoder.bias", ".bias")
        if kept in tensors:
            tensors[key] = tensors[kept]
        elif key.endswith("position_ids"):
            tensors[kept] = tensors[key] = MemoryTensor(torch.arange(value.shape[-1])[None])
        else:
            tensors[kept] = tensors[key] = seeded(kept, tuple(value.shape), seed)
    return {key: tensors[key] for key in meta}


def codebook_state_dict(config: CodebookConfig = CodebookConfig(), seed: int = 0) -> dict[str, TensorSource]:
    """A DALL-E encoder's state dict."""
    with torch.device("meta"):
        meta = DalleEncoder(config).state_dict()
    return {key: seeded(key, tuple(value.shape), seed) for key, value in meta.items()}


def write_checkpoint(path: Path, config: FlavaConfig = FlavaConfig(), seed: int = 0) -> None:
    write_torch_zip(path, original_state_dict(config, seed))
