"""A tensor that was saved in chunks, as `torch.distributed.checkpoint` does, put together as it is read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import TypeAlias

import numpy as np

from ..errors import InvalidInput
from .dtypes import Dtype
from .tensors import CHUNK_ELEMENTS, StoredTensor, whole

Box: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # where a chunk begins in its tensor, by axis, and its sizes


@dataclass(frozen=True, eq=False)
class ChunkedTensor:
    """A tensor whose elements lie in several places of one or more files; `chunks` reads them in order.

    ``boxes`` say which part of the tensor each chunk is; ``open_chunk`` gives the stored tensor of the chunk with an index.
    """

    key: str
    dtype: Dtype
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]
    open_chunk: Callable[[int], StoredTensor]

    @cached_property
    def parts(self) -> list[tuple[tuple[int, ...], StoredTensor]]:
        """Where each chunk begins, and its stored tensor, once it is sure that they are the whole tensor and no more.

        Raises:
            InvalidInput: the chunks overlap, leave a hole, or one is not what the metadata says.
        """
        filled = [at for at, (_, sizes) in enumerate(self.boxes) if prod(sizes)]
        if prod(self.shape) and not tile([self.boxes[at] for at in filled], self.shape):
            raise InvalidInput(f"the chunks of {self.key} overlap, or leave a part of it out; the checkpoint is broken")
        found = []
        for at in filled:
            offsets, sizes = self.boxes[at]
            chunk = self.open_chunk(at)
            if (chunk.dtype, chunk.shape) != (self.dtype, sizes):
                theirs = f"{chunk.dtype} {list(chunk.shape)}"
                raise InvalidInput(f"a chunk of {self.key} is {theirs}, where the metadata says {self.dtype} {list(sizes)}")
            found.append((offsets, chunk))
        return found

    def chunks(self) -> Iterator[np.ndarray]:
        """The elements, in pieces of the lengths that `TensorSource.chunks` promises."""
        total = prod(self.shape)
        memory = np.empty(min(total, CHUNK_ELEMENTS), self.dtype.held_in)
        filled, given = 0, 0
        for piece in _in_order(self.parts, self.shape) if total else ():
            while piece.size:
                taken = piece[: memory.size - filled]
                memory[filled : filled + taken.size] = taken
                filled, piece = filled + taken.size, piece[taken.size :]
                if filled == memory.size:
                    yield memory
                    given += filled
                    memory, filled = memory[: total - given], 0


def tile(boxes: Sequence[Box], shape: tuple[int, ...]) -> bool:
    """Whether the boxes fill the shape without a hole and without an overlap, cut along its axes one after another."""
    if len(boxes) < 2 or not shape:
        return list(boxes) == [((0,) * len(shape), shape)]
    if not all(len(offsets) == len(sizes) == len(shape) for offsets, sizes in boxes):
        return False
    bands: dict[tuple[int, int], list[Box]] = {}
    for offsets, sizes in boxes:
        bands.setdefault((offsets[0], sizes[0]), []).append((offsets[1:], sizes[1:]))
    spans = sorted(bands)
    ends = list(accumulate(size for _, size in spans))
    starts = [0, *ends[:-1]]
    return ends[-1] == shape[0] and starts == [start for start, _ in spans] and all(tile(band, shape[1:]) for band in bands.values())


_Part: TypeAlias = tuple[tuple[int, ...], StoredTensor]


def _in_order(parts: Sequence[_Part], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The elements of parts that tile a shape, in row-major order, as flat arrays of any length."""
    if len(parts) == 1:
        yield from parts[0][1].chunks()
        return
    bands: dict[int, list[_Part]] = {}
    for offsets, chunk in parts:
        bands.setdefault(offsets[0], []).append((offsets, chunk))
    row = prod(shape[1:])
    for _, band in sorted(bands.items()):
        rows = band[0][1].shape[0]
        if len(band) == 1:
            yield from band[0][1].chunks()
        elif row > CHUNK_ELEMENTS:
            for at in range(rows):
                yield from _in_order([(offsets[1:], _rows(chunk, at, None)) for offsets, chunk in band], shape[1:])
        else:
            step = CHUNK_ELEMENTS // row
            for at in range(0, rows, step):
                yield _block(band, at, min(step, rows - at), shape)


def _block(band: Sequence[_Part], first: int, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Some rows of a band of parts side by side, as a flat array."""
    block = np.empty((count, *shape[1:]), band[0][1].dtype.held_in)
    for offsets, chunk in band:
        columns = tuple(slice(start, start + size) for start, size in zip(offsets[1:], chunk.shape[1:]))
        block[(slice(None), *columns)] = whole(_rows(chunk, first, count))
    return block.reshape(-1)


def _rows(chunk: StoredTensor, first: int, count: int | None) -> StoredTensor:
    """``count`` rows of a stored tensor from one on, or that one row without its axis."""
    stride = chunk.stride or tuple(prod(chunk.shape[axis + 1 :]) for axis in range(len(chunk.shape)))
    offset = chunk.offset + first * stride[0]
    if count is None:
        return replace(chunk, shape=chunk.shape[1:], offset=offset, stride=stride[1:])
    return replace(chunk, shape=(count, *chunk.shape[1:]), offset=offset, stride=stride)
