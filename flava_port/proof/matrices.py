"""Matrices of large models, from which few rows of numbers are computed: their gradients, and the largest of them in float64, are never whole.

A linear layer's gradient with respect to its matrix is the product of what arrives at its output and of what went in. Of a
few rows these two factors take far less memory than the product, and a comparison needs only a part of it at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .forward import magnitude

_MATRIX = 1 << 18  # elements: the gradient of less than that is kept as it is
_HUGE = 1 << 24  # elements: of more than that, a part at a time is in float64
_PART = 1 << 19  # elements, which stay in the processor's cache


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is so large a matrix that its gradient is kept as two factors."""
    return weight.is_floating_point() and weight.ndim == 2 and weight.numel() >= _MATRIX


def is_huge(shape: Sequence[int]) -> bool:
    """Whether a matrix of this shape is not made float64 as a whole."""
    return len(shape) == 2 and prod(shape) > _HUGE


@dataclass(frozen=True, eq=False)
class Factors:
    """The gradient of a matrix [N, M]: ``arrived.T @ went_in``, of [K, N] and [K, M], and what it got in other ways."""

    arrived: Tensor
    went_in: Tensor
    rest: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.arrived.shape[1], self.went_in.shape[1]))

    def __getitem__(self, rows: slice) -> Tensor:
        product = self.arrived[:, rows].T @ self.went_in
        return product if self.rest is None else product + self.rest[rows]


TensorOrFactors: TypeAlias = Tensor | Factors


def size_and_distance(ours: TensorOrFactors, theirs: TensorOrFactors | None) -> tuple[float, float]:
    """The largest value of our gradient, and the largest difference of theirs from it; NaN where there is one.

    The difference is infinite where there is none of theirs, or it has another shape.
    """
    if theirs is None or theirs.shape != ours.shape:
        return size_and_distance(ours, ours)[0], float("inf")
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.is_sparse and theirs.is_sparse:
        return magnitude(_stored(ours)), magnitude(_stored(theirs - ours))
    ours, theirs = (torch.atleast_1d(one.to_dense()) if isinstance(one, Tensor) else one for one in (ours, theirs))
    size = distance = 0.0
    for rows in _parts(ours.shape):
        mine, other = ours[rows], theirs[rows]
        size, distance = _larger(size, magnitude(mine)), _larger(distance, magnitude(other - mine))
    return size, distance


def _stored(gradient: Tensor) -> Tensor:
    """The numbers that are stored of a sparse gradient."""
    return gradient.coalesce().values()


def _larger(one: float, other: float) -> float:
    return max(one, other, key=lambda number: (isnan(number), number))


def _parts(shape: Sequence[int]) -> Iterator[slice]:
    rows = _rows_of_a_part(shape)
    return (slice(first, first + rows) for first in range(0, shape[0], rows))


def _rows_of_a_part(shape: Sequence[int]) -> int:
    return max(1, _PART * shape[0] // max(1, prod(shape)))


@dataclass(frozen=True, eq=False)
class Matrix:
    """A block's matrix [N, M] of which ``values`` has the numbers, in float64, or in float32 where it is huge.

    While the block runs, `stand_in` is in its place, and everything is computed in float64.
    """

    values: Tensor
    with_gradient: bool
    factors: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of each product: what arrived, and what went in
    looked_up: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of each lookup: the numbers of the rows, and the rows
    as_a_whole: list[Tensor] = field(default_factory=list)  # in float64, where something else was computed from it
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64, requires_grad=True))

    def stand_in(self) -> Tensor:
        """What a module takes for the matrix: it has its shape and float64's dtype, and takes no memory."""
        zeros = torch.zeros((), dtype=torch.float64).expand(self.values.shape)
        stand_in: _StandIn = Tensor._make_subclass(_StandIn, zeros)
        stand_in.matrix = self
        return stand_in

    def leaves(self) -> list[Tensor]:
        """What gradients must be taken of, before `gradient` is asked for."""
        return [self.anchor, *(rows for _, rows in self.looked_up), *self.as_a_whole] if self.with_gradient else []

    def gradient(self, found: Mapping[int, Tensor | None]) -> TensorOrFactors | None:
        """The gradient of the matrix, where ``found`` has those of its leaves by their ids. That of lookups is sparse."""
        parts = [part for whole in self.as_a_whole if (part := found.get(id(whole))) is not None]
        for numbers, rows in self.looked_up:
            if (part := found.get(id(rows))) is not None:
                parts.append(torch.sparse_coo_tensor(numbers[None], part, self.values.shape, check_invariants=True))
        rest = sum(parts[1:], start=parts[0]) if parts else None
        if not self.factors:
            return rest
        arrived, went_in = (torch.cat(both) for both in zip(*self.factors))
        return Factors(arrived, went_in, None if rest is None else rest.to_dense())

    def whole(self) -> Tensor:
        """The matrix in float64."""
        if not self.as_a_whole:
            self.as_a_whole.append(self.values.detach().to(torch.float64).requires_grad_(self.with_gradient))
        return self.as_a_whole[0]

    def product(self, given: Tensor, bias: Tensor | None) -> Tensor:
        """What a linear layer makes of [..., M]: [..., N]."""
        product: Tensor = _Product.apply(given, self.anchor, self)
        return product if bias is None else product + bias

    def rows(self, ids: Tensor, padding: int | None) -> Tensor:
        """The rows of these ids [...]: [..., M]. That of the padding takes no gradient."""
        numbers, places = ids.unique(return_inverse=True)
        rows = self.values.detach()[numbers].to(torch.float64).requires_grad_(self.with_gradient)
        self.looked_up.append((numbers, rows))
        padded = [] if padding is None else (numbers == padding).nonzero().flatten().tolist()
        return functional.embedding(places, rows, *padded)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """In float64: the whole, or of one in float32 some rows at a time. A part is valid until the next one is asked for."""
        values = self.values.detach()
        if values.dtype == torch.float64:
            yield slice(None), values
            return
        # The same memory serves all parts. Of one for each, the allocator would leave holes.
        memory = torch.empty(_rows_of_a_part(values.shape), values.shape[1], dtype=torch.float64)
        for rows in _parts(values.shape):
            yield rows, memory[: len(values[rows])].copy_(values[rows])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, _anchor: Tensor, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(given)
        product = torch.empty(*given.shape[:-1], len(matrix.values), dtype=torch.float64)
        for rows, part in matrix.parts():
            product[..., rows] = given @ part.T
        return product

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> tuple[Tensor | None, None, None]:
        (given,) = ctx.saved_tensors
        arriving = arrived[0].flatten(0, -2)
        ctx.matrix.factors.append((arriving, given.detach().flatten(0, -2)))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        below = torch.zeros(arriving.shape[0], given.shape[-1], dtype=torch.float64)
        for rows, part in ctx.matrix.parts():
            below += arriving[:, rows] @ part
        return below.reshape(given.shape), None, None


class _StandIn(Tensor):
    """A tensor of a matrix's shape and dtype. torch asks it before it computes anything from it."""

    matrix: Matrix

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.linear and (found := _linear(*args, **kwargs)) is not None:
            return found
        if function is functional.embedding and (found := _embedding(*args, **kwargs)) is not None:
            return found
        if getattr(function, "__name__", "") == "__get__":  # of an attribute: its shape, its dtype, its transpose
            with torch._C.DisableTorchFunctionSubclass():
                found = function(*args, **kwargs)
            if not isinstance(found, Tensor):
                return found
        return function(*_whole(tuple(args)), **{name: _whole(value) for name, value in kwargs.items()})


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """None where that is not the plain product of a matrix."""
    if not isinstance(weight, _StandIn) or any(isinstance(other, _StandIn) for other in (input, bias)):
        return None
    is_plain = input.dtype == weight.dtype and input.ndim > 1 and input.shape[-1] == weight.shape[1]
    return weight.matrix.product(input, bias) if is_plain else None


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor | None:  # fmt: skip
    """None where rows are not just looked up."""
    if not isinstance(weight, _StandIn) or max_norm is not None or scale_grad_by_freq:
        return None
    return weight.matrix.rows(input, padding_idx)


def _whole(value: Any) -> Any:
    """The same with a tensor for each matrix."""
    if isinstance(value, list | tuple):
        return type(value)(map(_whole, value))
    return value.matrix.whole() if isinstance(value, _StandIn) else value
