"""Seeded original checkpoints for the demo, the tests and the benchmarks, made a chunk at a time.

Every tensor can be recognised: no two are alike and none is constant. Their scales are such that every part
of the model shows in its outputs.
"""

import sys
import types
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files.dtypes import FLOAT32, Dtype
from ..files.tensors import CHUNK_ELEMENTS, ArrayTensor, TensorSource, recast
from ..files.torch_tensors import as_array, load
from .codebook import DalleEncoder
from .config import CodebookConfig, FlavaConfig
from .flava import Flava


@dataclass(frozen=True)
class SeededTensor:
    """Normally distributed values around ``mean``. The same seed gives the same values; they are made while they are read."""

    shape: tuple[int, ...]
    seed: int
    scale: float
    mean: float = 0.0
    dtype: Dtype = FLOAT32

    def chunks(self) -> Iterator[np.ndarray]:
        generator = torch.Generator().manual_seed(self.seed)
        total = prod(self.shape)
        for first in range(0, total, CHUNK_ELEMENTS):
            values = torch.randn(min(CHUNK_ELEMENTS, total - first), generator=generator)
            yield recast(as_array(values.mul_(self.scale).add_(self.mean)), FLOAT32, self.dtype)


def seeded(key: str, shape: tuple[int, ...], seed: int) -> SeededTensor:
    """The tensor for one key: matrices keep a signal's size, weights of layer norms lie around 1, all else is small noise."""
    own_seed = zlib.crc32(key.encode()) + (seed << 32)
    if key.endswith("logit_scale"):
        return SeededTensor(shape, own_seed, scale=0.1, mean=2.6592)
    if "layernorm" in key.lower() and key.endswith(".weight"):
        return SeededTensor(shape, own_seed, scale=0.2, mean=1.0)
    if len(shape) > 1 and "embeddings.weight" not in key and "token" not in key and "position" not in key:
        return SeededTensor(shape, own_seed, scale=prod(shape[1:]) ** -0.5)
    return SeededTensor(shape, own_seed, scale=0.3)


def seeded_state_dict(config: FlavaConfig = FlavaConfig(), seed: int = 0) -> dict[str, TensorSource]:
    """A whole original state dict. A second copy or tied bias is the same object as the tensor that it repeats."""
    shapes = _shapes(Flava, config)
    tensors: dict[str, TensorSource] = {}
    for key, shape in shapes.items():
        kept = key.replace("_encoder.embeddings.", "_encoder.module.embeddings.").replace(".decoder.bias", ".bias")
        if kept in tensors:
            tensors[key] = tensors[kept]
        elif key.endswith("position_ids"):
            tensors[kept] = tensors[key] = ArrayTensor(np.arange(shape[-1], dtype=np.int64)[None])
        else:
            tensors[kept] = tensors[key] = seeded(kept, shape, seed)
    return {key: tensors[key] for key in shapes}


def seeded_codebook(config: CodebookConfig = CodebookConfig(), seed: int = 0) -> dict[str, TensorSource]:
    """The state dict of a DALL-E encoder."""
    return {key: seeded(key, shape, seed) for key, shape in _shapes(DalleEncoder, config).items()}


@cache
def _shapes(model_class: type[nn.Module], config: FlavaConfig | CodebookConfig) -> Mapping[str, tuple[int, ...]]:
    """The keys of a reference model, with their shapes."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in model_class(config).state_dict().items()}


def write_pickled_codebook(path: Path, config: CodebookConfig = CodebookConfig(), seed: int = 0) -> None:
    """Writes a pickled `dall_e.encoder.Encoder`, as OpenAI published it; the package dall_e is not needed."""
    with _dall_e_classes() as (encoder_class, block_class, convolution_class):
        shapes = _shapes(DalleEncoder, config)

        def convolution(name: str) -> nn.Module:
            module = convolution_class()
            for part in ("w", "b"):
                key = f"{name}.{part}"
                setattr(module, part, nn.Parameter(load(seeded(key, shapes[key], seed))))
            return module

        def block(name: str) -> nn.Module:
            path: dict[str, nn.Module] = {}
            module = block_class()
            module.id_path = convolution(f"{name}.id_path") if f"{name}.id_path.w" in shapes else nn.Identity()
            for n in range(1, 5):
                path |= {f"relu_{n}": nn.ReLU(), f"conv_{n}": convolution(f"{name}.res_path.conv_{n}")}
            module.res_path = nn.Sequential(OrderedDict(path))
            return module

        def group(name: str, *, pool: bool) -> nn.Module:
            blocks = [(f"block_{n}", block(f"{name}.block_{n}")) for n in range(1, config.num_blocks_per_group + 1)]
            return nn.Sequential(OrderedDict(blocks + [("pool", nn.MaxPool2d(kernel_size=2))] * pool))

        stages = OrderedDict(input=convolution("blocks.input"))
        stages |= {f"group_{n}": group(f"blocks.group_{n}", pool=n < config.num_groups) for n in range(1, config.num_groups + 1)}
        stages["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=convolution("blocks.output.conv")))
        encoder = encoder_class()
        encoder.blocks = nn.Sequential(stages)
        torch.save(encoder, path)


@contextmanager
def _dall_e_classes() -> Iterator[list[type[nn.Module]]]:
    """Empty classes under the names that OpenAI's pickle holds. They can be imported while the block runs."""
    modules = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    classes = []
    for home, name in (("dall_e.encoder", "Encoder"), ("dall_e.encoder", "EncoderBlock"), ("dall_e.utils", "Conv2d")):
        classes.append(type(name, (nn.Module,), {"__module__": home}))
        setattr(modules[home], name, classes[-1])
    before = {name: module for name, module in sys.modules.items() if name in modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)
