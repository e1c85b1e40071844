"""One block run on what it was given, and the vector-Jacobian products of that: what `blocks` compares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .calls import Arguments, first
from .matrices import KeptFactors, TensorOrFactors
from .streamed import StreamedBlock


@dataclass(frozen=True, eq=False)
class Job:
    """What a block is given, and the gradient that arrives at its output, which are ``seeded`` numbers if none is given.

    ``chosen`` are the tokens that take part.
    """

    given: Arguments
    arriving: Tensor | None
    chosen: Tensor | None = None
    seeded: bool = False

    def shortened(self, tokens: int, *, spread: bool = False) -> "Job":
        """Some tokens of hidden states [B, S, D], or rows of [K, D]: the first and last ones, or ones ``spread`` from end to end."""
        main = self.given.main
        if not main.is_floating_point() or main.ndim not in (2, 3) or main.shape[-2] <= tokens:
            return self
        length = main.shape[-2]
        ends = torch.cat([torch.arange(tokens - tokens // 2), torch.arange(length - tokens // 2, length)])
        chosen = torch.linspace(0, length - 1, tokens).round().long() if spread else ends
        arriving = self.arriving
        if arriving is not None and arriving.ndim == main.ndim and arriving.shape[-2] == length:
            arriving = arriving.index_select(-2, chosen)

        def shorter(tensor: Tensor) -> Tensor:
            if tensor is main:
                return tensor.index_select(-2, chosen)
            for axis in (-1, -2):  # of a mask
                if tensor.ndim > 2 and tensor.shape[axis] == length:
                    tensor = tensor.index_select(axis, chosen)
            return tensor

        return Job(self.given.map(shorter), arriving, chosen)


@dataclass(frozen=True, eq=False)
class Products:
    """What a block gives for each job, the gradient of each weight, and what goes on to each job's input.

    The gradient of a table in which rows are looked up is sparse: it holds these rows alone.
    """

    outputs: Sequence[Tensor]
    of_weights: Sequence[TensorOrFactors | None] = ()
    of_inputs: Sequence[Tensor | None] = ()


def compute(
    block: StreamedBlock, weights: Sequence[Tensor], jobs: Sequence[Job], dtype: torch.dtype, *, gradients: bool, few: bool = False
) -> Products:
    """Runs a block on all jobs, those of like shapes together. ``few`` tokens need no gradient of a large matrix as a whole."""
    if few:
        try:
            return _computed(block, weights, jobs, dtype, gradients, large=weights)
        except Exception:  # checkpoints and transforms of functions do not run so
            weights = [weight.detach() for weight in weights]
    return _computed(block, weights, jobs, dtype, gradients, large=())


def _computed(
    block: StreamedBlock, weights: Sequence[Tensor], jobs: Sequence[Job], dtype: torch.dtype, gradients: bool, large: Sequence[Tensor]
) -> Products:
    outputs: list[Tensor] = [torch.empty(0)] * len(jobs)
    mains, results, arriving = [], [], []
    groups = list(_alike(jobs))
    leaves = [weight.requires_grad_(gradients and weight.is_floating_point()) for weight in weights]
    factors = KeptFactors(large)
    with block.filled(leaves), _sparse_lookups(block.module), factors, torch.set_grad_enabled(gradients):
        for group in groups:
            given = _together([jobs[number].given for number in group]).cast(dtype)
            main = given.main.requires_grad_(gradients and given.main.is_floating_point())
            result = first(block.forward(*given.args, **given.kwargs))
            for number, output in zip(group, result.detach().split([len(jobs[n].given.main) for n in group])):
                outputs[number] = output
            mains.append(main)
            results.append(result)
            arriving.append(torch.cat([_arriving(jobs[n], outputs[n]).to(dtype) for n in group]))
        if not gradients:
            return Products(outputs)
        inputs = [leaf for leaf in (*leaves, *mains) if leaf.requires_grad]
        with factors.kept():  # with the weights there: a checkpoint runs the block again
            found = dict(zip(map(id, inputs), torch.autograd.grad(results, inputs, arriving, allow_unused=True)))
    of_inputs: list[Tensor | None] = [None] * len(jobs)
    for group, main in zip(groups, mains):
        if (gradient := found.get(id(main))) is not None:
            for number, part in zip(group, gradient.split([len(jobs[n].given.main) for n in group])):
                of_inputs[number] = part
    of_weights = [factors.gradient(leaf, found.get(id(leaf))) for leaf in leaves]
    return Products(outputs, of_weights, of_inputs)


@contextmanager
def _sparse_lookups(module: nn.Module) -> Iterator[None]:
    """Lookups that run within the context have sparse gradients."""
    tables = [(table, table.sparse) for table in module.modules() if isinstance(table, nn.Embedding)]
    try:
        for table, _ in tables:
            table.sparse = True
        yield
    finally:
        for table, own in tables:
            table.sparse = own


def _arriving(job: Job, output: Tensor) -> Tensor:
    if job.seeded:
        return seeded_numbers(output, seed=1)
    return torch.zeros_like(output) if job.arriving is None else job.arriving


def _alike(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """The numbers of jobs that can run as one: their tensors have one shape but for the first axis, which is the batch's."""
    groups: dict[object, list[int]] = {}
    for number, job in enumerate(jobs):
        given, rows = job.given, len(job.given.main)
        batched = all(tensor.ndim > 1 and len(tensor) == rows for tensor in given.tensors())
        shapes = [(v.shape[1:], v.dtype) if isinstance(v, Tensor) else v for v in given.values()]
        groups.setdefault((repr(shapes), tuple(given.kwargs)) if batched else number, []).append(number)
    yield from groups.values()


def _together(given: Sequence[Arguments]) -> Arguments:
    if len(given) == 1:
        return given[0]
    columns = iter([torch.cat(same) for same in zip(*(one.tensors() for one in given))])
    return given[0].map(lambda _: next(columns))


def seeded_numbers(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
