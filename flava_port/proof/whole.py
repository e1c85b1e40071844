"""Runs both models, whole and then block by block, and gathers what lies apart. `judge` says what the numbers mean."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from ..original.flava import Flava
from ..progress import Advance, Progress
from ..rules.layouts import ORIGINAL_SEMANTICS
from ..target.installed import quiet
from ..target.keys import tied
from .blocks import compare_backwards, compare_block, compare_forwards, lead_back, pair_of
from .bounds import GRADIENT_MARGIN, MARGIN, is_large, scale
from .calls import Recorder
from .certificate import Finding
from .forward import (
    codebook_case,
    relative_error,
    run_codebook,
    run_converted,
    run_converted_codebook,
    run_original,
)
from .localise import localise
from .memory import freed_memory_kept, need_memory, return_freed_memory
from .products import Job
from .results import BlockResult, Bounds, Comparison, Deviation, RawGradient, Results
from .scenarios import SHORT_TEXT, Scenario, scenarios
from .sides import Sides
from .streamed import Streamed, StreamedBlock

# Of each sequence of a large model, as many tokens take part where its blocks are compared in float64.
_TOKENS = 4
_LIBRARIES = 700 << 20  # bytes: torch and transformers, and what the allocator keeps


@dataclass(frozen=True)
class Expected:
    """The original's outputs on each scenario: in float64, or of a large model with blocks in float32."""

    cases: Sequence[Scenario]
    outputs: Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Both:
    """Both models run on the same scenarios, the converted one after the original."""

    ours: Recorder
    theirs: Recorder
    cases: Sequence[Scenario]
    expected: Sequence[Mapping[str, Tensor]]
    found: Sequence[Mapping[str, Tensor]]
    tokens: int | None  # how many of a sequence take part where blocks are compared; None: all

    @property
    def errors(self) -> dict[str, float]:
        """Relative errors of all outputs, by scenario and name."""
        return {
            f"{case.name}: {name}": relative_error(found[name], value) if name in found else float("inf")
            for case, wanted, found in zip(self.cases, self.expected, self.found)
            for name, value in wanted.items()
        }

    def compared(self, results: Iterator[BlockResult]) -> Comparison:
        """The comparison of the whole, and of each block."""
        blocks = {result.name: self._with_ends(result) for result in results}
        floor = max(block.floor for block in blocks.values())
        bounds = Bounds(floor, scale(torch.float64), GRADIENT_MARGIN, MARGIN[torch.float32] if self.tokens else scale(torch.float64))
        return Comparison(bounds, self.errors, blocks)

    def _with_ends(self, result: BlockResult) -> BlockResult:
        calls = self.theirs.calls(result.name)
        return replace(
            result, entered=max((call.entered for call in calls), default=0.0), left=max((call.left for call in calls), default=0.0)
        )

    def where(self, comparison: Comparison) -> list[Finding]:
        """The first module to diverge, in the order in which the converted model runs; else, that it lies between blocks."""
        bounds = comparison.bounds
        for case, blocks in zip(self.cases, self.theirs.of_cases):
            for name, calls in blocks.items():
                block = comparison.blocks.get(name)
                for number, call in enumerate(calls, start=1):
                    if block is None or call.original is None:
                        continue
                    enters = call.entered <= bounds.tolerance
                    leaves = block.error <= comparison.tolerance_of(block) and call.left <= comparison.whole_tolerance_of(block)
                    if not enters or not leaves:
                        ours, theirs = (Job(one.given.map(Tensor.detach), None) for one in (call.original, call))
                        if enters:
                            theirs = Job(theirs.given.with_main(ours.given.main), None)
                        if self.tokens:
                            spread = pair_of(self.ours, self.theirs, name, self.tokens).is_further(call)
                            ours, theirs = (job.shortened(self.tokens, spread=spread) for job in (ours, theirs))
                        return localise(call, case.name, number, theirs, ours, bounds.tolerance)
        what = "what differs lies between blocks: a mask, a scale, a slice or a loss"
        return [Finding("no single block diverges", "", what)]


@quiet()
@freed_memory_kept()
def run_both(sides: Sides, progress: Progress) -> tuple[Results, Expected]:
    """Everything that the claims about the computation are judged by.

    Raises:
        InvalidInput: there is less memory than it takes.
    """
    ours, theirs, codebook = sides.original(), sides.converted(), sides.streamed_codebook()
    large = is_large(ours.model)
    need_memory(memory_for(ours, codebook) if large else 0)
    with progress("run", _bytes_to_run(ours, codebook) if large else None) as advance:
        return _run_both(sides, ours, theirs, codebook, advance)


def _bytes_to_run(ours: Streamed, codebook: Streamed | None) -> int:
    """The bytes of the weights of all blocks that run, each time that one does.

    Both models' blocks run on inputs and are compared. Those that are called twice run on masked inputs too, but for the
    converted model's inner layers.
    """
    blocks = _blocks(ours, codebook)
    twice, inner = re.compile(r"flava\.\w+_model\.|flava\.\w+_to_mm_"), inner_layers(ours)
    return sum(((6 if twice.match(block.name) else 4) - (block.name in inner)) * block.nbytes for block in blocks)


def memory_for(ours: Streamed, codebook: Streamed | None) -> int:
    """The bytes that a large model takes: the libraries, the states of its scenarios, and a block of each model."""
    assert isinstance(ours.model, Flava)
    image, text, both = (getattr(ours.model.config, f"{name}_config") for name in ("image", "text", "multimodal"))
    patches = (image.image_size // image.patch_size) ** 2
    # One image, two texts and two pairs, as they are and masked.
    encoders = ((image, 2 * (1 + patches)), (text, 4 * SHORT_TEXT), (both, 4 * (2 + patches + SHORT_TEXT)))
    states = torch.float64.itemsize * sum(rows * one.hidden_size * (one.num_hidden_layers + 3) for one, rows in encoders)
    both_in_float64_and_one_as_it_is = 5 * max(block.nbytes for block in _blocks(ours, codebook))
    return _LIBRARIES + states + both_in_float64_and_one_as_it_is


def _blocks(ours: Streamed, codebook: Streamed | None) -> list[StreamedBlock]:
    return [*ours.blocks.values(), *(codebook.blocks.values() if codebook else ())]


def _run_both(sides: Sides, ours: Streamed, theirs: Streamed, our_codebook: Streamed | None, advance: Advance) -> tuple[Results, Expected]:
    large = is_large(ours.model)
    assert isinstance(ours.model, Flava)
    cases = [case.to(torch.float64) for case in scenarios(ours.model, brief=large)]
    both = _recorded(ours, theirs, cases, advance, large=large)
    lead_back([*both.expected, *both.found], with_states=not large)
    own = both.compared(compare_backwards(both.ours, both.theirs, both.tokens, advance))
    own = replace(own, between=_between(both))
    hiding = [name for name, block in own.blocks.items() if own.hidden(block) or block.gradients.keys() & own.unseen]
    seeded = None
    if hiding:
        # Where a softmax or a tanh saturates, no output shows what comes before it. Other weights show how it is wired.
        pairs = (pair_of(both.ours, both.theirs, name, both.tokens) for name in hiding)
        results = {pair.name: compare_block(pair, gradients=True, with_seeded=True) for pair in pairs}
        floor = max((block.floor for block in results.values() if isfinite(block.floor)), default=own.bounds.floor)
        seeded = Comparison(own.bounds if isfinite(own.bounds.floor) else replace(own.bounds, floor=floor), {}, results)
    codebook = _codebooks(our_codebook, theirs, advance, large=large)
    wrong = _differs(own)
    where = both.where(own) if wrong else []
    deviations = list(_deviations(sides, both)) if sides.made_by is not ORIGINAL_SEMANTICS else []
    expected = Expected(both.cases, [{name: value.detach() for name, value in outputs.items()} for outputs in both.expected])
    return Results(own, seeded, codebook, where, deviations), expected


def _recorded(ours: Streamed, theirs: Streamed, cases: Sequence[Scenario], advance: Advance, *, large: bool) -> Both:
    dtype = torch.float32 if large else torch.float64
    original = Recorder(ours, dtype, gradients=True, advance=advance)
    expected = [original.run(run_original, case) for case in cases]
    converted = Recorder(theirs, dtype, original, gradients=True, each_shape_once=inner_layers(theirs) if large else (), advance=advance)
    found = [converted.run(run_converted, case) for case in cases]
    return Both(original, converted, cases, expected, found, _TOKENS if large else None)


def inner_layers(side: Streamed) -> set[str]:
    """The layers that are neither the first nor the last of their encoder.

    All layers of an encoder are one class. What that does otherwise with a further input shows in the first and the last.
    """
    layers = [found for name in side.blocks if (found := re.fullmatch(r"(.*\.layer)\.(\d+)", name))]
    last = {found[1]: max(int(other[2]) for other in layers if other[1] == found[1]) for found in layers}
    return {found[0] for found in layers if 0 < int(found[2]) < last[found[1]]}


def _differs(own: Comparison) -> bool:
    """Whether an output or a block differs."""
    tolerance = own.bounds.tolerance
    wrong = any(not error <= tolerance for error in own.errors.values())
    for block in own.blocks.values():
        wrong |= not (block.error <= own.tolerance_of(block) and block.entered <= tolerance and block.left <= own.whole_tolerance_of(block))
    return wrong


def _between(both: Both) -> dict[str, RawGradient]:
    """The gradients of the weights that stand between the blocks."""
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    for recorder, sums in ((both.ours, ours), (both.theirs, theirs)):
        for weights in recorder.between:
            for name, weight in weights.items():
                if weight.grad is not None:
                    sums[tied(name)] = sums[tied(name)] + weight.grad if tied(name) in sums else weight.grad
    found = {}
    for name in both.ours.between[0]:
        zero = torch.zeros(())
        mine, other = ours.get(name, zero), theirs.get(name, zero)
        difference = float((mine - other).abs().max()) if mine.shape == other.shape or not other.ndim else float("inf")
        found[name] = RawGradient(float(mine.abs().max()), difference, 0.0)
    return found


def _codebooks(ours: Streamed | None, theirs: Streamed, advance: Advance, *, large: bool) -> Comparison | None:
    """Both codebooks on pixels of high contrast."""
    if ours is None:
        return None
    return_freed_memory()  # what its images take does not fit into what the layers left
    case = codebook_case(ours.model.config.input_channels, 1 if large else 2)  # type: ignore[union-attr,arg-type] # a DalleEncoder's
    original = Recorder(ours, torch.float64, advance=advance)
    converted = Recorder(theirs, torch.float64, original, advance=advance)
    both = Both(original, converted, [case], [original.run(run_codebook, case)], [converted.run(run_converted_codebook, case)], None)
    return both.compared(compare_forwards(original, converted, advance))


def _deviations(sides: Sides, both: Both) -> Iterator[Deviation]:
    """Every output of the source's own code against what its config can say to transformers."""
    recorder = Recorder(sides.original(sides.made_by), both.ours.dtype, known=both.ours)
    for case, wanted in zip(both.cases, both.expected):
        found = recorder.run(run_original, case)
        found.pop("total loss", None)  # each loss is held to its bound by itself
        for name, value in found.items():
            if name in wanted:
                yield Deviation(f"{case.name}: {name}", float((value - wanted[name]).abs().max()), relative_error(wanted[name], value))
