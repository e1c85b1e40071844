"""Both sides recorded module by module, so that the first one to diverge is known by name."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..rules.tables import FLAVA, source_name
from .certificate import Finding
from .forward import relative_error, run_converted, run_original
from .scenarios import Scenario
from .sides import Sides

# ------------------------------------------------------------------------- module by module


@dataclass(frozen=True)
class Call:
    """One call of a module that owns weights: its name on the converted side, and what went in and out."""

    name: str
    inputs: Tensor
    output: Tensor


def converted_name(original: str) -> str:
    """The converted name of an original module, by the rules: ``mm_encoder.module.layernorm`` and the like."""
    return FLAVA.trace(f"{original}.weight").target.removesuffix(".weight")


@contextmanager
def recording(model: nn.Module, name_of: Callable[[str], str] = str) -> Iterator[list[Call]]:
    """Lists every call of a module that owns weights, in order, while the block runs."""
    calls: list[Call] = []
    hooks = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d)):
            if id(module) in seen:
                continue
            seen.add(id(module))

            def hook(_module, inputs, output, name=name_of(path)):
                calls.append(Call(name, inputs[0].detach(), output.detach()))

            hooks.append(module.register_forward_hook(hook))
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


def original_module_names(path: str) -> str:
    """The converted name for a path in `Flava`; second copies of embeddings count as their first."""
    return converted_name(path.replace("_encoder.embeddings", "_encoder.module.embeddings"))


@dataclass(frozen=True)
class Divergence:
    """The first module whose output differs, and whether its own computation does."""

    name: str
    call: int
    error: float
    own_fault: bool  # fed the other side's input, it still differs


def first_divergence(theirs: list[Call], ours: list[Call], modules: Mapping[str, nn.Module], tolerance: float) -> Divergence | None:
    """The first call, in the converted model's order, that differs from the original's by more than ``tolerance``.

    ``modules`` has the converted model's modules by name, to run one again on the original's input.
    """
    queues: dict[str, list[Call]] = {}
    for call in ours:
        queues.setdefault(call.name, []).append(call)
    count: dict[str, int] = {}
    for call in theirs:
        number = count[call.name] = count.get(call.name, -1) + 1
        expected = queues.get(call.name, [])
        if number >= len(expected) or call.output.shape != expected[number].output.shape:
            continue
        error = relative_error(call.output, expected[number].output)
        if not error <= tolerance:
            with torch.no_grad():
                again = modules[call.name](expected[number].inputs)
            return Divergence(call.name, number, error, not relative_error(again, expected[number].output) <= tolerance)
    return None


def localise(sides: Sides, theirs: torch.nn.Module, case: Scenario, tolerance: float) -> list[Finding]:
    """The first module that diverges, in both names, and whether the fault is its own."""
    ours = sides.original().double()
    with torch.no_grad(), recording(ours, original_module_names) as our_calls:
        run_original(ours, case)
    with torch.no_grad(), recording(theirs) as their_calls:
        run_converted(theirs, case)
    found = first_divergence(their_calls, our_calls, dict(theirs.named_modules()), tolerance)
    if found is None:
        return [Finding("no single module diverges", "", "what differs lies between modules: a mask, a scale, a slice or a loss")]
    key = f"{found.name}.weight"
    whose = "its own weights or computation" if found.own_fault else "fed the original's input it agrees, so the cause lies just before it"
    source = source_name(key).removesuffix(".weight")
    rules = FLAVA.trace(source_name(key)).rules
    what = f"the first module to diverge ({case.name}, call {found.call + 1}), relative error {found.error:.1e}: {whose}"
    return [Finding(found.name, f"{source} ({rules})", what)]
