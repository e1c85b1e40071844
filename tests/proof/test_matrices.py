"""Where few rows go through a large matrix, its gradient is kept as two factors: it is the gradient that torch takes, and never whole."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from flava_port.proof import matrices
from flava_port.proof.matrices import Factors, KeptFactors, size_and_distance

ROWS, COLUMNS, PADDING = 37, 11, 3
IDS = torch.tensor([[5, 3, 36], [5, 0, 36]])  # the padding is one of them, and two stand there twice


def _numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _linear_by_name(weight, states):
    return functional.linear(input=states, weight=weight, bias=states.new_ones(ROWS))


def _as_a_module(weight, states):
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False, device="meta")
    linear._parameters["weight"] = weight
    return linear(states).tanh()


def _with_a_hook(weight, states):
    """The hook is there when the gradient comes, and sees it."""
    product = functional.linear(states, weight)
    weight.register_hook(lambda gradient: gradient * 1.5)
    return product


def _without_its_gradient(weight, states):
    weight.requires_grad_(False)
    product = functional.linear(states, weight)
    weight.requires_grad_(True)
    return product


def _with_other_values(weight, states):
    """It comes first: what was computed before would go back through either values, as each layer of torch's has it."""
    weight.data = weight.data * 1.25
    return functional.linear(states, weight)


def _with_a_gradient_inside(weight, states):
    """Another backward pass comes first, and one through that."""
    product = functional.linear(states, weight).tanh()
    (of_states, of_weight) = torch.autograd.grad(product.sum(), (states, weight), create_graph=True)
    return product * of_states.sum() * of_weight.sum()


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight):
        ctx.save_for_backward(states, weight)
        return functional.linear(states, weight)

    @staticmethod
    def backward(ctx, gradient):
        states, weight = ctx.saved_tensors
        return gradient @ weight, 2 * gradient.flatten(0, -2).T @ states.flatten(0, -2)


USES = {
    "a linear layer": _as_a_module,
    "a linear layer of one row": lambda weight, states: functional.linear(states[0, 0], weight),
    "a linear layer with a bias": _linear_by_name,
    "a linear layer of what takes no gradient": lambda weight, states: functional.linear(states.detach(), weight),
    "a linear layer without gradients": lambda weight, states: torch.no_grad()(functional.linear)(states, weight) + states.sum(),
    "a hook": _with_a_hook,
    "no gradient of it": _without_its_gradient,
    "other values": _with_other_values,
    "a gradient inside": _with_a_gradient_inside,
    "a function of its own": lambda weight, states: _Own.apply(states, weight),
    "a share where it takes gradients": lambda weight, states: functional.linear(states, weight) * (1.5 if weight.requires_grad else 1),
    "a product of its transpose": lambda weight, states: states @ weight.T * weight.shape[0],
    "rows that are looked up": lambda weight, _: functional.embedding(IDS, weight, padding_idx=PADDING, sparse=True),
    "rows with a negative padding": lambda weight, _: functional.embedding(IDS, weight, padding_idx=-1),
    "its parts": lambda weight, _: torch.cat([weight, 2 * weight]).square(),
    "its own product": lambda weight, _: functional.linear(weight, weight),
}


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    """Every matrix is large; a part is a few rows, and the last one is shorter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "_LARGE", 0)
        patch.setattr(matrices, "_PART", 4 * COLUMNS)
        yield


def _computed(uses, *, kept):
    """What comes out and the gradients of what goes in and of the weight, which are torch's own or are kept as factors."""
    weight, states = _numbers(ROWS, COLUMNS).requires_grad_(), _numbers(2, 4, COLUMNS, seed=1).requires_grad_()
    factors = KeptFactors([weight])
    with factors if kept else nullcontext():
        outputs = [USES[use](weight, states) for use in sorted(uses, key=lambda use: use != "other values")]
        total = sum((output * _numbers(*output.shape, seed=2)).sum() for output in outputs)
    with factors.kept():
        of_states, of_weight = torch.autograd.grad(total, [states, weight], allow_unused=True)
    return outputs, of_states, factors.gradient(weight, of_weight)


@given(uses=st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=5, unique=True))
def test_outputs_and_gradients_are_torchs_own(uses):
    """Whatever a module computes from it, and however often: outputs to the bit, gradients up to the order of additions."""
    outputs, of_states, of_weight = _computed(uses, kept=False)
    others, of_the_same, of_the_matrix = _computed(uses, kept=True)
    assert all(torch.equal(other, output) for output, other in zip(outputs, others, strict=True))
    assert (of_states is None) == (of_the_same is None) and (of_weight is None) == (of_the_matrix is None)
    if of_states is not None:
        torch.testing.assert_close(of_the_same, of_states, rtol=1e-12, atol=1e-12)
    if of_weight is not None:
        size, distance = size_and_distance(of_weight, of_the_matrix)
        assert size == pytest.approx(float(of_weight.to_dense().abs().max())) and distance < 1e-12 * size


class _Made(TorchDispatchMode):
    """The sizes of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                self.sizes.add(tensor.numel())
        return result


@pytest.mark.parametrize("kept", [True, False])
def test_no_gradient_of_the_matrix_is_whole(kept):
    """Where it is torch's own, it is: that is seen."""
    weight = torch.ones(ROWS, COLUMNS, dtype=torch.float64, requires_grad=True)
    states = torch.ones(1, 2, COLUMNS, dtype=torch.float64)
    factors = KeptFactors([weight])
    with factors if kept else nullcontext():
        output = functional.linear(states, weight).sum()
    with factors.kept(), _Made() as made:
        (rest,) = torch.autograd.grad(output, [weight], allow_unused=True)
        gradient = factors.gradient(weight, rest)
        assert size_and_distance(gradient, gradient) == (2.0, 0.0)
    assert (max(made.sizes) >= ROWS * COLUMNS) == (not kept)


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
