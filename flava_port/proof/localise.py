"""Names the first module of a block to diverge, from a recording of both models' block module by module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..rules.tables import FLAVA, source_name
from .calls import Call
from .certificate import Finding
from .forward import relative_error
from .products import Job
from .streamed import StreamedBlock


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module that owns weights: the module's converted name, its first input and its output."""

    name: str
    inputs: Tensor
    output: Tensor


@contextmanager
def recording(model: nn.Module, name: str = "") -> Iterator[list[ModuleCall]]:
    """Lists every call of a module that owns weights, in order, while the block runs. ``name`` is the model's own."""
    calls: list[ModuleCall] = []
    handles = []
    for path, module in model.named_modules():  # a module that stands twice counts as its first
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d)) and any(True for _ in module.parameters(recurse=False)):

            def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = f"{name}.{path}".strip(".")) -> None:
                calls.append(ModuleCall(name, inputs[0].detach(), output.detach()))

            handles.append(module.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Divergence:
    """The first module whose output differs, and by how much."""

    name: str
    error: float
    own_fault: bool  # fed the original's input, it still differs


def first_divergence(
    theirs: list[ModuleCall], ours: list[ModuleCall], modules: Mapping[str, nn.Module], tolerance: float
) -> Divergence | None:
    """The first call, in the converted model's order, whose output differs from the original's by more than ``tolerance``.

    ``modules`` has the converted model's modules by name; the one that diverges is run again on the original's input.
    """
    expected: dict[str, list[ModuleCall]] = {}
    for call in ours:
        expected.setdefault(call.name, []).append(call)
    count: dict[str, int] = {}
    for call in theirs:
        number = count[call.name] = count.get(call.name, -1) + 1
        of_this_name = expected.get(call.name, [])
        if number >= len(of_this_name) or call.output.shape != of_this_name[number].output.shape:
            continue
        wanted = of_this_name[number]
        error = relative_error(call.output, wanted.output)
        if not error <= tolerance:
            with torch.no_grad():
                again = modules[call.name](wanted.inputs)
            return Divergence(call.name, error, own_fault=not relative_error(again, wanted.output) <= tolerance)
    return None


def localise(call: Call, case: str, number: int, job: Job, original: Job, tolerance: float) -> list[Finding]:
    """The first module of a block that diverges, under both names, and whether the fault is its own.

    ``call`` is the converted model's; ``job`` and ``original`` are what the two blocks are given.
    """
    assert call.original is not None
    ours, theirs = call.original.block, call.block
    modules = {f"{theirs.name}.{path}".rstrip("."): module for path, module in theirs.module.named_modules()}
    weights = theirs.load(torch.float64)
    with torch.no_grad(), recording(ours.module, ours.name) as our_calls, ours.filled(ours.load(torch.float64)):
        _run(ours, original)
    with torch.no_grad(), theirs.filled(weights):
        with recording(theirs.module, theirs.name) as their_calls:
            _run(theirs, job)
        found = first_divergence(their_calls, our_calls, modules, tolerance)
    if found is None:
        given, expected = list(call.given.main.shape), list(call.original.given.main.shape)
        what = "what differs lies between its modules" if given == expected else f"it gets {given}, the original's {expected}"
        return [Finding(theirs.name, "", f"no single module of it diverges ({case}): {what}")]
    key = source_name(f"{found.name}.weight")
    whose = "its own weights or computation" if found.own_fault else "fed the original's input it agrees, so the cause lies just before it"
    what = f"the first module to diverge ({case}, call {number}), relative error {found.error:.1e}: {whose}"
    return [Finding(found.name, f"{key.removesuffix('.weight')} ({FLAVA.trace(key).rules})", what)]


def _run(block: StreamedBlock, job: Job) -> None:
    given = job.given.cast(torch.float64)
    block.module(*given.args, **given.kwargs)
