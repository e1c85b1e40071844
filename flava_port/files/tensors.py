"""Tensors that are read piece by piece, so that no model ever has to fit in memory.

Everything that can be written or compared is a `TensorSource`. It knows its dtype and shape, and gives
its elements in row-major order as flat chunks. Two sources of one shape give chunks of the same
lengths, so they can be compared chunk by chunk.

Nothing here needs torch. Elements of a dtype that numpy lacks are held as their bits (see
`flava_port.files.dtypes`), and `recast` casts as torch does.
"""

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from ..errors import InvalidInput
from .dtypes import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Dtype
from .zip_records import Checksum, Inflating, check_storage, damaged

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: large enough for the disk, small enough for the cache
ALIGNMENT = 64  # bytes: torch.save and safetensors begin their data at a multiple of this


class TensorSource(Protocol):
    """A tensor whose elements can be read in order, wherever they come from: a file, memory, a cast, a seed."""

    @property
    def dtype(self) -> Dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def chunks(self) -> Iterator[np.ndarray]:
        """The elements in row-major order, as flat arrays of at most `CHUNK_ELEMENTS` elements.

        A chunk is valid until the next one is asked for: both may use the same memory.
        """


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file; `chunks` reads it.

    Its storage begins at byte ``start`` of the file. ``offset`` and ``stride``, in elements, place the
    tensor inside that storage, as in `torch.as_strided`. If the storage is deflated, ``deflated`` is the number of
    its bytes in the file. If the file says what the storage's bytes sum up to, ``checksum`` has that, and the first
    reading of the whole tensor raises InvalidInput where they do not.
    """

    file: Path
    start: int
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None  # None: contiguous
    deflated: int | None = None
    checksum: Checksum | None = None
    # The times of the file's last change at which the checksum was seen to be right.
    right_at: list[int] = field(default_factory=list, compare=False, repr=False)

    @property
    def is_contiguous(self) -> bool:
        return self.stride is None or (
            _span(self.shape, self.stride) == prod(self.shape)
            and all(size == 1 or step == prod(self.shape[axis + 1 :]) for axis, (size, step) in enumerate(zip(self.shape, self.stride)))
        )

    def is_same_memory_as(self, other: "StoredTensor") -> bool:
        """Whether both read the very same bytes, as tied tensors do that torch saved."""
        return self.is_contiguous and other.is_contiguous and self._place() == other._place()

    def _place(self) -> tuple[object, ...]:
        return self.file, self.start, self.offset, self.dtype, self.shape

    def chunks(self) -> Iterator[np.ndarray]:
        total = prod(self.shape)
        if not total:
            return
        changed = self.file.stat().st_ctime_ns
        checksum = self.checksum if changed not in self.right_at else None
        sums_up = checksum is not None and self.is_contiguous and total * self.dtype.itemsize == checksum.nbytes
        if checksum is not None and not sums_up:
            check_storage(self.file, changed, self.start, self.deflated, checksum)
        crc = 0
        with open(self.file, "rb", buffering=0) as raw:
            file = raw if self.deflated is None else Inflating(raw, self.start, self.deflated)
            file.seek((self.start if file is raw else 0) + self.offset * self.dtype.itemsize)
            if self.stride is not None and not self.is_contiguous:
                span = self._read_into(np.empty(_span(self.shape, self.stride), self.dtype.held_in), file)
                # The stride of an axis of size 1 means nothing and may be any number.
                strides = [step * self.dtype.itemsize if size > 1 else 0 for size, step in zip(self.shape, self.stride)]
                yield from split(np.lib.stride_tricks.as_strided(span, self.shape, strides))
                return
            memory = np.empty(min(total, CHUNK_ELEMENTS), self.dtype.held_in)
            for first in range(0, total, CHUNK_ELEMENTS):
                chunk = self._read_into(memory[: total - first], file)
                crc = zlib.crc32(raw_bytes(chunk), crc) if sums_up else 0
                yield chunk
        if checksum is not None:
            if sums_up and crc != checksum.crc:
                raise damaged(self.file)
            self.right_at.append(changed)

    def _read_into(self, chunk: np.ndarray, file: io.FileIO | Inflating) -> np.ndarray:
        view = raw_bytes(chunk)
        while view:
            read = file.readinto(view)
            if not read:
                raise InvalidInput(f"{self.file}: the file ends inside a tensor; it was cut while being read")
            view = view[read:]
        return chunk


@dataclass(frozen=True)
class UnsupportedTensor:
    """What stands in a tensor's place and no conversion can take: ``kind`` says what it is (a sparse tensor, ...)."""

    kind: str
    noun: str = "tensor"
    advice: str = "convert it to a dense floating point tensor first"

    def __str__(self) -> str:
        return f"a {self.kind} {self.noun}"


TensorInFile: TypeAlias = TensorSource | UnsupportedTensor


@dataclass(frozen=True, eq=False)
class ArrayTensor:
    """An array in memory as a `TensorSource`."""

    array: np.ndarray

    @property
    def dtype(self) -> Dtype:
        return DTYPES[self.array.dtype.name]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def chunks(self) -> Iterator[np.ndarray]:
        return split(self.array)


@dataclass(frozen=True)
class CastTensor:
    """Another source's values in another dtype, cast as they are read."""

    source: TensorSource
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def chunks(self) -> Iterator[np.ndarray]:
        return (recast(chunk, self.source.dtype, self.dtype) for chunk in self.source.chunks())


@dataclass(frozen=True)
class ReshapedTensor:
    """Another source's elements in another shape of as many."""

    source: TensorSource
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Dtype:
        return self.source.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        return self.source.chunks()


def cast(source: TensorSource, dtype: Dtype) -> TensorSource:
    """``source`` in ``dtype``: itself, if it has that dtype already."""
    return source if source.dtype == dtype else CastTensor(source, dtype)


def split(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array's elements in the chunks that `TensorSource.chunks` promises."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return (flat[first : first + CHUNK_ELEMENTS] for first in range(0, flat.size, CHUNK_ELEMENTS))


def whole(source: TensorSource) -> np.ndarray:
    """All elements in memory, in the source's shape, as the dtype's ``held_in``."""
    flat = np.empty(prod(source.shape), source.dtype.held_in)
    filled = 0
    for chunk in source.chunks():
        flat[filled : filled + chunk.size] = chunk
        filled += chunk.size
    return flat.reshape(source.shape)


def values(source: TensorSource) -> np.ndarray:
    """All values in memory, in the source's shape, as numbers: bfloat16 as float32."""
    return as_numbers(whole(source), source.dtype)


def as_numbers(elements: np.ndarray, dtype: Dtype) -> np.ndarray:
    """The numbers that elements of ``dtype`` stand for. The bits of a bfloat16 are the upper half of a float32's."""
    return (elements.astype(np.uint32) << np.uint32(16)).view(np.float32) if dtype == BFLOAT16 else elements


def recast(elements: np.ndarray, dtype: Dtype, target: Dtype) -> np.ndarray:
    """Elements of ``dtype`` cast to ``target`` as torch casts them.

    Rounds to nearest, ties to even; a cast to 16 bits goes by way of float32. A NaN stays a NaN, but
    torch leaves open which of the NaNs a narrowed one becomes.
    """
    if dtype == target:
        return elements
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = as_numbers(elements, dtype)
        if dtype == FLOAT16 and target in (FLOAT32, FLOAT64):
            # The multiplication turns a signalling NaN into a quiet one, as a processor's own cast does.
            numbers = numbers.astype(target.held_in) * target.held_in.type(1)
        if target in (FLOAT16, BFLOAT16):
            numbers = numbers.astype(FLOAT32.held_in, copy=False)
        return _rounded_to_bfloat16(numbers) if target == BFLOAT16 else numbers.astype(target.held_in, copy=False)


def _rounded_to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers as bfloat16.

    That is the upper half of each number's bits, plus one where the lower half is above the middle, or
    is the middle and the upper half is odd.
    """
    pattern = numbers.view(np.uint32)
    rounded = (pattern + (0x7FFF + ((pattern >> 16) & 1))) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, rounded).astype(BFLOAT16.held_in)


def is_zero(source: TensorSource) -> bool:
    """Whether every value is zero, of either sign."""
    return not any(as_numbers(chunk, source.dtype).any() for chunk in source.chunks())


def nbytes(source: TensorSource) -> int:
    """Bytes of all elements together."""
    return prod(source.shape) * source.dtype.itemsize


def raw_bytes(chunk: np.ndarray) -> memoryview:
    """The memory of a contiguous array, to read from or write to."""
    return chunk.reshape(-1).view(np.uint8).data


def sha256(source: TensorSource) -> str:
    """Digest of the elements' little-endian bytes in row-major order. Dtype and shape are not part of it."""
    digest = hashlib.sha256()
    for chunk in source.chunks():
        digest.update(raw_bytes(chunk))
    return digest.hexdigest()


def bits(chunk: np.ndarray) -> np.ndarray:
    """The same memory as unsigned integers. Compared so, a NaN equals itself and 0.0 is not -0.0."""
    return chunk.view(f"u{min(chunk.itemsize, 8)}")


def are_equal(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two chunks of one dtype are equal bit for bit."""
    return ours.shape == theirs.shape and bool((bits(ours) == bits(theirs)).all())


def differing(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """For each element, in the arrays' shape, whether any of its bits differs. The arrays must not be empty."""
    return (bits(ours) != bits(theirs)).reshape(ours.size, -1).any(axis=1).reshape(ours.shape)


@dataclass(frozen=True)
class Mismatch:
    """The first element at which two tensors of one shape and dtype differ."""

    index: tuple[int, ...]
    ours: float
    theirs: float

    def __str__(self) -> str:
        return f"first at {list(self.index)}: {self.ours!r} and {self.theirs!r}"


def first_difference(ours: TensorSource, theirs: TensorSource) -> Mismatch | None:
    """The first element whose bits differ, or None. The shapes and dtypes must agree."""
    if isinstance(ours, StoredTensor) and isinstance(theirs, StoredTensor) and ours.is_same_memory_as(theirs):
        return None
    seen = 0
    for mine, other in zip(ours.chunks(), theirs.chunks(), strict=True):
        if not are_equal(mine, other):
            at = int(differing(mine, other).argmax())
            pair = (as_numbers(chunk[at : at + 1], ours.dtype).item() for chunk in (mine, other))
            return Mismatch(tuple(map(int, np.unravel_index(seen + at, ours.shape))), *pair)
        seen += mine.size
    return None


def count_nonfinite(chunk: np.ndarray, dtype: Dtype) -> int:
    """How many elements of a chunk are NaN or infinite."""
    if dtype.kind != "float":
        return 0
    return chunk.size - int(np.count_nonzero(np.isfinite(as_numbers(chunk, dtype))))


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements of the storage lie from the tensor's first to its last, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride))


WORKERS = 2
WORTH_A_THREAD = 16 << 20  # bytes: threads that share less work than this spend their time waiting for each other

_Result = TypeVar("_Result")


def for_each(work: Callable[[str], _Result], tensors: Mapping[str, TensorSource]) -> Iterator[tuple[str, _Result]]:
    """Each key with the result of ``work(key)``, in order, on `WORKERS` threads where that is faster.

    The first error, in the order of the keys, is raised and ends the work.
    """
    if sum(map(nbytes, tensors.values())) < WORTH_A_THREAD:
        yield from ((key, work(key)) for key in tensors)
        return
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from zip(tensors, pool.map(work, tensors))
