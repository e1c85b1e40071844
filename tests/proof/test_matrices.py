"""A matrix of a large model gives what a tensor gives, and the gradient that torch takes of a tensor, with neither whole in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from flava_port.proof import matrices
from flava_port.proof.matrices import Factors, Matrix, size_and_distance

ROWS, COLUMNS, PADDING = 37, 11, 3
IDS = torch.tensor([[5, 3, 36], [5, 0, 36]])  # the padding is one of them, and two stand there twice


def _linear_by_name(weight, states):
    return functional.linear(input=states, weight=weight, bias=states.new_ones(ROWS))


def _as_a_module(weight, states):
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta")
    linear._parameters["weight"] = weight
    return linear(states).tanh()


USES = {
    "a linear layer": _as_a_module,
    "a linear layer of one row": lambda weight, states: functional.linear(states[0, 0], weight),
    "a linear layer with a bias": _linear_by_name,
    "a product of its transpose": lambda weight, states: states @ weight.T * weight.shape[0],
    "rows that are looked up": lambda weight, _: functional.embedding(IDS, weight),
    "rows with a padding": lambda weight, _: functional.embedding(IDS, weight, padding_idx=PADDING),
    "rows with another padding": lambda weight, _: functional.embedding(IDS, weight, padding_idx=1),
    "rows with gradients by frequency": lambda weight, _: functional.embedding(IDS, weight, scale_grad_by_freq=True),
    "rows that are cut out": lambda weight, states: states @ weight[2:5].T,
    "its parts": lambda weight, _: torch.cat([weight, 2 * weight]).square(),
    "a cast": lambda weight, states: functional.linear(states.float(), weight.float()).double(),
    "its own product": lambda weight, _: functional.linear(weight, weight),
}


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    """A part is a few rows, and the last one is shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "_PART", 4 * COLUMNS)
        yield


def _numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _both(uses, dtype):
    """What comes out and the gradients of what goes in and of the weight: of a tensor, and of a matrix."""
    values = _numbers(ROWS, COLUMNS).to(dtype)
    for matrix in (None, Matrix(values, with_gradient=True)):
        weight = values.double().requires_grad_() if matrix is None else matrix.stand_in()
        states = _numbers(2, 4, COLUMNS, seed=1).requires_grad_()
        outputs = [USES[use](weight, states) for use in uses]
        total = sum((output * _numbers(*output.shape, seed=2)).sum() for output in outputs)
        leaves = [states, weight] if matrix is None else [states, *matrix.leaves()]
        found = torch.autograd.grad(total, leaves, allow_unused=True)
        gradient = found[1] if matrix is None else matrix.gradient(dict(zip(map(id, leaves), found)))
        yield outputs, found[0], gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["huge", "large"])
@given(uses=st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=4))
def test_outputs_and_gradients_are_a_tensors(uses, dtype):
    """Whatever a module computes from it, and however often."""
    (outputs, of_states, of_weight), (others, of_their_states, of_the_matrix) = _both(uses, dtype)
    for output, other in zip(outputs, others, strict=True):
        assert type(other) is torch.Tensor
        torch.testing.assert_close(other, output, rtol=1e-12, atol=1e-12)
    assert (of_states is None) == (of_their_states is None)
    if of_states is not None:
        torch.testing.assert_close(of_their_states, of_states, rtol=1e-12, atol=1e-12)
    size, distance = size_and_distance(of_weight, of_the_matrix)
    assert size == pytest.approx(float(of_weight.abs().max())) and distance < 1e-12 * size


class _Largest(TorchDispatchMode):
    """The most elements of a tensor that is made in float64."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and not tensor.is_sparse:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


@pytest.mark.parametrize(("use", "whole"), [("a linear layer", 0), ("rows with a padding", 0), ("a product of its transpose", 1)])
def test_neither_a_huge_matrix_nor_its_gradient_is_whole_in_float64(use, whole):
    """The last case shows that what is whole is seen."""
    matrix = Matrix(torch.ones(ROWS, COLUMNS), with_gradient=True)
    states = torch.ones(1, 2, COLUMNS, dtype=torch.float64)
    with _Largest() as largest:
        output = USES[use](matrix.stand_in(), states)
        found = torch.autograd.grad(output.sum(), leaves := matrix.leaves(), allow_unused=True)
        gradient = matrix.gradient(dict(zip(map(id, leaves), found)))
        size, distance = size_and_distance(gradient, gradient)
    assert size > 0 and distance == 0
    assert (largest.elements >= ROWS * COLUMNS) == bool(whole)


def test_a_matrix_without_gradients_keeps_nothing_of_what_it_computes():
    """As where a block with a planted fault runs."""
    matrix = Matrix(_numbers(ROWS, COLUMNS), with_gradient=False)
    with torch.no_grad():
        output = functional.linear(_numbers(2, COLUMNS), matrix.stand_in())
    assert not output.requires_grad and not matrix.leaves() and not matrix.factors


def _factors(change=lambda arrived: None):
    arrived = _numbers(6, ROWS)
    change(arrived)
    return Factors(arrived, _numbers(6, COLUMNS, seed=1))


def test_one_other_element_is_found_in_any_part():
    """By its exact difference, between factors and between factors and a tensor."""
    ours, dense = _factors(), _factors()[:]
    assert size_and_distance(ours, dense) == (float(dense.abs().max()), pytest.approx(0, abs=1e-14))
    for row in range(ROWS):
        theirs = dense.clone()
        theirs[row, COLUMNS - 1] += 0.5
        assert size_and_distance(ours, theirs)[1] == pytest.approx(0.5)
        other = _factors(lambda arrived, row=row: arrived[0, row].add_(0.25))
        apart = float((ours[:] - other[:]).abs().max())
        assert apart > 0.01 and size_and_distance(ours, other)[1] == pytest.approx(apart)


def test_a_nan_in_any_part_is_no_agreement():
    """In either gradient."""
    for row in (0, ROWS // 2, ROWS - 1):
        spoilt = _factors(lambda arrived, row=row: arrived[0, row].fill_(float("nan")))
        for one, other in ((spoilt, _factors()), (_factors(), spoilt)):
            assert not size_and_distance(one, other)[1] <= 1e300


@pytest.mark.parametrize("theirs", [None, torch.zeros(COLUMNS, ROWS), torch.zeros(())])
def test_a_gradient_of_another_shape_or_none_is_infinitely_far(theirs):
    """And the size of ours is known all the same."""
    assert size_and_distance(_factors(), theirs) == (pytest.approx(float(_factors()[:].abs().max())), float("inf"))


def test_what_a_tensor_refuses_a_matrix_refuses():
    """Numbers of another dtype are an error, which is not hidden by a cast."""
    values, states = _numbers(ROWS, COLUMNS), torch.ones(2, COLUMNS)
    for weight in (values, Matrix(values, with_gradient=True).stand_in()):
        with pytest.raises(RuntimeError, match="dtype"):
            functional.linear(states, weight)
