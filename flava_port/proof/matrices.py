"""Gradients of large matrices through which few rows of numbers went: kept as the two factors that make them, and never whole.

A linear layer's gradient with respect to its matrix is the product of what arrived at its output and of what went in. Of a
few rows these factors take far less memory than the product, and a comparison needs only a part of it at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan, prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .forward import magnitude

_LARGE = 1 << 18  # elements: the gradient of less than that is kept as it is
_PART = 1 << 19  # elements, which stay in the processor's cache


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
    rows = max(1, _PART * shape[0] // max(1, prod(shape)))
    return (slice(first, first + rows) for first in range(0, shape[0], rows))


class KeptFactors(TorchFunctionMode):
    """Within the context, a linear layer's gradient with respect to one of these weights is kept as factors, if it is a large matrix.

    That is, while `kept` runs; any other backward pass is torch's own, and so is everything else that is computed from the
    weights: what a linear layer gives, what their hooks see.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._weights = {id(weight): weight for weight in weights if weight.ndim == 2 and weight.numel() >= _LARGE}
        self._found: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._keeping = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around the backward pass whose gradients `gradient` gives."""
        self._keeping = True
        try:
            yield
        finally:
            self._keeping = False

    def gradient(self, weight: Tensor, rest: Tensor | None) -> TensorOrFactors | None:
        """The weight's gradient, of which ``rest`` is what the backward pass gave."""
        pairs = self._found.get(id(weight))
        if pairs is None:
            return rest
        arrived, went_in = (torch.cat(both) for both in zip(*pairs))
        return Factors(arrived, went_in, None if rest is None else rest.to_dense())

    def keeps(self, weight: Tensor) -> bool:
        """Whether the weight's gradient is kept now: not where a hook of the weight awaits it."""
        return self._keeping and not weight._backward_hooks

    def keep(self, weight: Tensor, arrived: Tensor, went_in: Tensor) -> None:
        self._found.setdefault(id(weight), []).append((arrived.clone(), went_in.clone()))

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.linear:
            return self._linear(*args, **kwargs)
        return function(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if id(weight) in self._weights and weight.requires_grad:
            product: Tensor = _Linear.apply(input, weight, bias, self)
            return product
        return functional.linear(input, weight, bias)


class _Linear(torch.autograd.Function):
    """torch's own linear layer [..., M] -> [..., N], but for the gradient of its weight."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None, factors: KeptFactors) -> Tensor:
        ctx.factors, ctx.leaf = factors, weight
        ctx.save_for_backward(given, weight)
        return functional.linear(given, weight, bias)

    @staticmethod
    def backward(ctx: Any, *arrived: Tensor) -> tuple[Tensor | None, ...]:
        given, weight = ctx.saved_tensors
        rows, went_in = arrived[0].reshape(-1, weight.shape[0]), given.reshape(-1, weight.shape[1])
        of_given = arrived[0] @ weight if ctx.needs_input_grad[0] else None
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        if not ctx.factors.keeps(ctx.leaf):
            return of_given, rows.T @ went_in if ctx.needs_input_grad[1] else None, of_bias, None
        ctx.factors.keep(ctx.leaf, rows.detach(), went_in.detach())
        return of_given, None, of_bias, None
