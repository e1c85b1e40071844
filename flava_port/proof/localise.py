"""Names the first module to diverge, from a recording of both models module by module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..rules.tables import FLAVA, source_name
from .certificate import Finding
from .forward import relative_error, run_converted, run_original
from .scenarios import Scenario
from .sides import Sides, converted_key


@dataclass(frozen=True)
class Call:
    """One call of a module that owns weights: the module's converted name, its first input and its output."""

    name: str
    inputs: Tensor
    output: Tensor


@contextmanager
def recording(model: nn.Module, name_of: Callable[[str], str] = str) -> Iterator[list[Call]]:
    """Lists every call of a module that owns weights, in order, while the block runs.

    ``name_of`` turns a module's path into the name to record.
    """
    calls: list[Call] = []
    handles = []
    for path, module in model.named_modules():  # a module that stands twice counts as its first
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d)) and any(True for _ in module.parameters(recurse=False)):

            def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name_of(path)) -> None:
                calls.append(Call(name, inputs[0].detach(), output.detach()))

            handles.append(module.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _converted_module(path: str) -> str:
    """The converted name of a module of `Flava` that owns weights."""
    return converted_key(f"{path}.weight").removesuffix(".weight")


@dataclass(frozen=True)
class Divergence:
    """The first module whose output differs, in which of its calls, and by how much."""

    name: str
    call: int
    error: float
    own_fault: bool  # fed the original's input, it still differs


def first_divergence(theirs: list[Call], ours: list[Call], modules: Mapping[str, nn.Module], tolerance: float) -> Divergence | None:
    """The first call, in the converted model's order, whose output differs from the original's by more than ``tolerance``.

    ``modules`` has the converted model's modules by name; the one that diverges is run again on the original's input.
    """
    expected: dict[str, list[Call]] = {}
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
            return Divergence(call.name, number, error, own_fault=not relative_error(again, wanted.output) <= tolerance)
    return None


def localise(sides: Sides, theirs: nn.Module, case: Scenario, tolerance: float) -> list[Finding]:
    """The first module that diverges, under both names, and whether the fault is its own."""
    ours = sides.original().double()
    with torch.no_grad(), recording(ours, _converted_module) as our_calls:
        run_original(ours, case)
    with torch.no_grad(), recording(theirs) as their_calls:
        run_converted(theirs, case)
    found = first_divergence(their_calls, our_calls, dict(theirs.named_modules()), tolerance)
    if found is None:
        return [Finding("no single module diverges", "", "what differs lies between modules: a mask, a scale, a slice or a loss")]
    key = source_name(f"{found.name}.weight")
    whose = "its own weights or computation" if found.own_fault else "fed the original's input it agrees, so the cause lies just before it"
    what = f"the first module to diverge ({case.name}, call {found.call + 1}), relative error {found.error:.1e}: {whose}"
    return [Finding(found.name, f"{key.removesuffix('.weight')} ({FLAVA.trace(key).rules})", what)]
