"""torch's tensors as a `TensorSource`, and a `TensorSource` as a torch tensor.

Elements pass as bytes. torch's own bridge to numpy is not used: it is missing where torch was built for
another numpy than the installed one.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from .dtypes import DTYPES, Dtype
from .tensors import CHUNK_ELEMENTS, StoredTensor, TensorSource, raw_bytes

_WORTH_MAPPING = 1 << 16  # elements: a smaller tensor is read as quickly


def dtype_of(dtype: torch.dtype) -> Dtype:
    """torch's dtype in our table."""
    return DTYPES[str(dtype).removeprefix("torch.")]


@dataclass(frozen=True, eq=False)
class MemoryTensor:
    """A `torch.Tensor` as a `TensorSource`."""

    tensor: torch.Tensor

    @property
    def dtype(self) -> Dtype:
        return dtype_of(self.tensor.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def chunks(self) -> Iterator[np.ndarray]:
        flat = self.tensor.detach().reshape(-1)
        return (as_array(flat[first : first + CHUNK_ELEMENTS]) for first in range(0, flat.numel(), CHUNK_ELEMENTS))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the tensor's elements as a flat array of the dtype's ``held_in``."""
    array = np.empty(tensor.numel(), dtype_of(tensor.dtype).held_in)
    if array.size:
        torch.frombuffer(raw_bytes(array), dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return array


def mapped(source: TensorSource) -> torch.Tensor:
    """The whole tensor as a private map of its file, which writing to the tensor does not change.

    What is small, deflated or not contiguous is loaded. The file must not be cut while the tensor lives.
    """
    elements = prod(source.shape)
    if not isinstance(source, StoredTensor) or not source.is_contiguous or source.deflated is not None or elements < _WORTH_MAPPING:
        return load(source)
    first = source.start + source.offset * source.dtype.itemsize
    skipped = first % mmap.ALLOCATIONGRANULARITY
    with open(source.file, "rb") as file:
        memory = mmap.mmap(file.fileno(), elements * source.dtype.itemsize + skipped, access=mmap.ACCESS_COPY, offset=first - skipped)
    dtype = getattr(torch, source.dtype.name)
    return torch.frombuffer(memory, dtype=dtype, count=elements, offset=skipped).reshape(source.shape)


def load(source: TensorSource, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The whole tensor in memory, of the source's shape, and of its dtype or cast to ``dtype``."""
    own = getattr(torch, source.dtype.name)
    flat = torch.empty(prod(source.shape), dtype=dtype or own)
    filled = 0
    for chunk in source.chunks():
        flat[filled : filled + chunk.size].copy_(torch.frombuffer(raw_bytes(chunk), dtype=own))
        filled += chunk.size
    return flat.reshape(source.shape)
