"""Tensors that are read piece by piece, so that no model ever has to fit in memory.

Everything that can be written or compared is a `TensorSource`: it knows its dtype and shape, and
yields its elements in row-major order as flat chunks. Chunks of two sources of the same shape
have the same lengths, so two sources compare chunk by chunk.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch

from .errors import InvalidInput

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: large enough for the disk, small enough for the allocator to reuse

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# An integer dtype of the same width, to compare bits instead of values: NaN equals itself, 0.0 is not -0.0.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


class TensorSource(Protocol):
    """Anything whose elements can be read in order: a stored, cast, seeded or in-memory tensor."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def chunks(self) -> Iterator[torch.Tensor]:
        """The elements in row-major order, as flat tensors of at most `CHUNK_ELEMENTS` elements."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file; `chunks` and `load` read it.

    ``start`` is the byte at which its storage begins, ``offset`` and ``stride`` (in elements)
    place the tensor inside that storage, as in `torch.as_strided`.
    """

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None  # None: contiguous

    @property
    def is_contiguous(self) -> bool:
        return self.stride is None or (
            _span(self.shape, self.stride) == prod(self.shape)
            and all(size == 1 or step == prod(self.shape[axis + 1 :]) for axis, (size, step) in enumerate(zip(self.shape, self.stride)))
        )

    def is_same_memory_as(self, other: "StoredTensor") -> bool:
        """Both read the very same bytes, as tied tensors saved by torch do."""
        return self.is_contiguous and other.is_contiguous and self._place() == other._place()

    def _place(self):
        return self.file, self.start, self.offset, self.dtype, self.shape

    def chunks(self) -> Iterator[torch.Tensor]:
        if not self.is_contiguous:
            span = self._read(self.offset, _span(self.shape, self.stride))
            yield from torch.as_strided(span, self.shape, self.stride).reshape(-1).split(CHUNK_ELEMENTS)
            return
        total = prod(self.shape)
        for first in range(0, total, CHUNK_ELEMENTS):
            yield self._read(self.offset + first, min(CHUNK_ELEMENTS, total - first))

    def _read(self, first: int, count: int) -> torch.Tensor:
        raw = torch.empty(count * self.dtype.itemsize, dtype=torch.uint8)
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.start + first * self.dtype.itemsize)
            view = memory_of(raw)
            while view:
                read = file.readinto(view)
                if not read:
                    raise InvalidInput(f"{self.file}: the file ends inside a tensor; it was cut while being read")
                view = view[read:]
        return raw.view(self.dtype)


@dataclass(frozen=True)
class MemoryTensor:
    """A `torch.Tensor` as a `TensorSource`."""

    tensor: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def chunks(self) -> Iterator[torch.Tensor]:
        flat = self.tensor.detach().reshape(-1)
        return iter(flat.split(CHUNK_ELEMENTS)) if flat.numel() else iter(())


@dataclass(frozen=True)
class CastTensor:
    """Another source's values in another dtype, cast as they are read."""

    source: TensorSource
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def chunks(self) -> Iterator[torch.Tensor]:
        return (chunk.to(self.dtype) for chunk in self.source.chunks())


def cast(source: TensorSource, dtype: torch.dtype) -> TensorSource:
    """``source`` in ``dtype``; itself where it already is."""
    return source if source.dtype == dtype else CastTensor(source, dtype)


def load(source: TensorSource) -> torch.Tensor:
    """The whole tensor in memory, of the source's shape and dtype."""
    pieces = list(source.chunks())
    flat = torch.cat(pieces) if pieces else torch.empty(0, dtype=source.dtype)
    return flat.reshape(source.shape)


def nbytes(source: TensorSource) -> int:
    return prod(source.shape) * source.dtype.itemsize


def raw_bytes(chunk: torch.Tensor) -> memoryview:
    """The chunk's bytes, without copying them."""
    return memory_of(chunk.contiguous().view(torch.uint8))


def memory_of(flat: torch.Tensor) -> memoryview:
    """The memory of a tensor of bytes, to read and to write.

    Raises:
        InvalidInput: this torch was built for another numpy than is installed.
    """
    try:
        return memoryview(flat.numpy())
    except RuntimeError as error:
        raise InvalidInput(
            f"torch {torch.__version__} cannot use the numpy that is installed ({error}); install numpy<2, or torch 2.3 or later"
        ) from None


def sha256(source: TensorSource) -> str:
    """Digest of the elements' little-endian bytes in row-major order (dtype and shape not included)."""
    digest = hashlib.sha256()
    for chunk in source.chunks():
        digest.update(raw_bytes(chunk))
    return digest.hexdigest()


def bits(chunk: torch.Tensor) -> torch.Tensor:
    """The same memory as integers, so that equality is equality of bits."""
    return chunk.contiguous().view(_BITS[chunk.dtype.itemsize])


@dataclass(frozen=True)
class Difference:
    """The first element at which two tensors of one shape and dtype differ."""

    index: tuple[int, ...]
    ours: float
    theirs: float

    def __str__(self) -> str:
        return f"first at {list(self.index)}: {self.ours!r} and {self.theirs!r}"


def first_difference(ours: TensorSource, theirs: TensorSource) -> Difference | None:
    """The first element whose bits differ, or None; the shapes and dtypes must agree."""
    if isinstance(ours, StoredTensor) and isinstance(theirs, StoredTensor) and ours.is_same_memory_as(theirs):
        return None
    seen = 0
    for mine, other in zip(ours.chunks(), theirs.chunks(), strict=True):
        if not torch.equal(bits(mine), bits(other)):
            at = int((bits(mine) != bits(other)).nonzero()[0, 0])
            at_element = at * _BITS[mine.dtype.itemsize].itemsize // mine.dtype.itemsize
            return Difference(_unravel(seen + at_element, ours.shape), mine[at_element].item(), other[at_element].item())
        seen += mine.numel()
    return None


def count_nonfinite(chunk: torch.Tensor) -> int:
    """How many elements of a chunk are NaN or infinite; the extremes tell at once where none is."""
    if not chunk.numel():
        return 0
    if chunk.dtype == torch.float16:
        chunk = chunk.float()  # torch 2.1 and 2.2 find no extremes of half precision
    if all(torch.isfinite(extreme) for extreme in torch.aminmax(chunk)):
        return 0
    return chunk.numel() - int(torch.isfinite(chunk).sum())


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return tuple(reversed(index))


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements of the storage lie between the first and the last that the tensor shows."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride))
