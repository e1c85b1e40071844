"""Compares the blocks of both models where they stand: the same inputs into both, in float64, one block in memory at a time.

Compared are what comes out, and the vector-Jacobian products with respect to every parameter and to what goes in. The
vectors are the gradients that arrive from above, each side's own; the products lead them on to the blocks below, so that
the gradients of whole models are compared too. Of a large model's sequences a few tokens take part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..files.torch_tensors import load
from ..original.seeded import seeded
from ..target.keys import POSITIONS, tied
from .bounds import PlantedFault, faults_of, noise, planted
from .calls import Call, Recorder
from .forward import magnitude, relative_error, total_of
from .matrices import TensorOrFactors, size_and_distance
from .memory import return_freed_memory
from .products import Job, Products, compute, seeded_numbers
from .results import BlockResult, RawGradient, why_no_output_shows
from .streamed import StreamedBlock


def lead_back(outputs: Iterable[Mapping[str, Tensor]], *, with_states: bool) -> None:
    """Takes the gradients of each scenario's total down to the outputs of the nearest blocks.

    Without the hidden states, one a layer, it takes less memory.
    """
    for found in outputs:
        total_of(found, with_states=with_states).backward(retain_graph=True)


def _go_on(calls: Sequence[Call], jobs: Sequence[Job], of_inputs: Sequence[Tensor | None]) -> None:
    """Takes the gradients of the blocks' inputs down to the outputs of the blocks below."""
    for call, job, gradient in zip(calls, jobs, of_inputs):
        main = call.given.main
        if gradient is not None and main.requires_grad:
            if job.chosen is not None:
                gradient = torch.zeros_like(main).index_copy_(-2, job.chosen, gradient)
            main.backward(gradient.to(main.dtype), retain_graph=True)


@dataclass(frozen=True, eq=False)
class Pair:
    """One block on both sides; ``theirs`` is None where the converted model has none or does not call it."""

    name: str
    ours: StreamedBlock
    our_calls: Sequence[Call]
    theirs: StreamedBlock | None
    their_calls: Sequence[Call]
    tokens: int | None

    def jobs(self, calls: Sequence[Call]) -> list[Job]:
        """One for each call. Both blocks are given what the original's was given, where the shapes agree."""
        found = []
        for call in calls:
            main = (call.original or call).given.main
            given = call.given.with_main(main if main.shape == call.given.main.shape else call.given.main)
            job = Job(given.map(Tensor.detach), call.output.grad)
            found.append(job.shortened(self.tokens, spread=self.is_further(call)) if self.tokens else job)
        if self.tokens and found and self.name.endswith(".embeddings"):
            # Of a large model's states few tokens take part, and its texts are short: this reaches every patch and position.
            longer = found[0].given.map(self._lengthened) if self._positions() else found[0].given
            found.append(Job(longer, None, seeded=True))
        return found

    def is_further(self, call: Call) -> bool:
        """Whether the original's call is not its first, so that other tokens of it take part."""
        return (call.original or call) in self.our_calls[1:]

    def _lengthened(self, ids: Tensor) -> Tensor:
        """Ids or token types [B, T] -> [1, positions]."""
        return ids[:1].repeat(1, -(-self._positions() // ids.shape[1]))[:, : self._positions()]

    def _positions(self) -> int:
        """How many positions a text may have, if the block is the text's embeddings."""
        tables = [weight for weight in self.ours.weights if weight.name == POSITIONS]
        return tables[0].shape[0] if tables else 0


def compare_backwards(ours: Recorder, theirs: Recorder, tokens: int | None, advance: Callable[[int], object]) -> Iterator[BlockResult]:
    """Each block's result: of those that were never called, then of the others, the last one first.

    Afterwards the weights between the blocks have their gradients.
    """
    before = 0
    for name in [*(name for name in ours.side.blocks if name not in ours.blocks()), *reversed(ours.blocks())]:
        pair = pair_of(ours, theirs, name, tokens)
        if pair.ours.nbytes > before:  # it does not fit into what the last one left
            return_freed_memory()
        before = pair.ours.nbytes
        yield compare_block(pair, gradients=True)
        for call in (*pair.our_calls, *pair.their_calls):
            call.output.grad = None
        advance(2 * pair.ours.nbytes)


def compare_forwards(ours: Recorder, theirs: Recorder, advance: Callable[[int], object]) -> Iterator[BlockResult]:
    """Each block's result without gradients."""
    for name in ours.blocks():
        pair = pair_of(ours, theirs, name, None)
        yield compare_block(pair, gradients=False)
        advance(2 * pair.ours.nbytes)


def pair_of(ours: Recorder, theirs: Recorder, name: str, tokens: int | None) -> Pair:
    """The blocks of one name, with their calls."""
    calls = theirs.calls(name)
    return Pair(name, ours.side.blocks[name], ours.calls(name), theirs.side.blocks.get(name) if calls else None, calls, tokens)


def compare_block(pair: Pair, *, gradients: bool, with_seeded: bool = False) -> BlockResult:
    """Compares one block, and takes the gradients on to what lies below it.

    With seeded weights in both models, and seeded hidden states and gradients, it takes nothing on.
    """
    pair = _each_once(pair) if with_seeded else pair
    names = [tied(weight.name) for weight in pair.ours.weights]
    if not pair.our_calls:  # a head of another width than its states has nothing to predict from
        raw = {n: RawGradient(0.0, 0.0, 0.0, why_no_output_shows(n, w.shape)) for n, w in zip(names, pair.ours.weights) if w.is_parameter}
        error = float("inf") if pair.their_calls else 0.0
        return BlockResult(pair.name, error, 0.0, noise(0.0), {}, raw)
    prepare, fill = (_seeded_job, _seeded_weights) if with_seeded else (lambda job: job, _weights)
    jobs, stored = [prepare(job) for job in pair.jobs(pair.our_calls)], fill(pair.ours, torch.float32)
    # How far rounding moves gradients too is seen where all tokens take part.
    rough = compute(pair.ours, stored, jobs, torch.float32, gradients=gradients and not pair.tokens)
    weights, their_weights = _both_in_float64(pair, stored, fill)
    exact = compute(pair.ours, weights, jobs, torch.float64, gradients=gradients, few=bool(pair.tokens))
    effects = {fault: _worst(outputs, exact.outputs) for fault, outputs in _with_faults(pair.ours, weights, jobs)}
    floor = noise(_worst(rough.outputs, exact.outputs))
    both = zip(names, rough.of_weights, exact.of_weights)
    moved = {name: size_and_distance(b, a)[1] for name, a, b in both if a is not None and b is not None}
    del rough, weights
    found = None
    arrived = error = float("inf")
    if pair.theirs is not None:
        their_jobs = [prepare(job) for job in pair.jobs(pair.their_calls)]
        found = compute(pair.theirs, their_weights, their_jobs, torch.float64, gradients=gradients, few=bool(pair.tokens))
        error, arrived = _errors(pair, jobs, their_jobs, exact, found)
        if gradients and not with_seeded:
            _go_on(pair.their_calls, their_jobs, found.of_inputs)
    if gradients and not with_seeded:
        _go_on(pair.our_calls, jobs, exact.of_inputs)
    raw = dict(_gradients(pair, names, exact, found, moved)) if gradients else {}
    return BlockResult(pair.name, error, arrived, floor, {str(fault): effect for fault, effect in effects.items()}, raw)


def _gradients(
    pair: Pair, names: Sequence[str], exact: Products, found: Products | None, moved: Mapping[str, float]
) -> Iterator[tuple[str, RawGradient]]:
    """Each parameter's gradient: its size, how far the converted model's lies from it, by how much rounding moves it."""
    theirs: dict[str, TensorOrFactors | None] = {}
    if found is not None and pair.theirs is not None:
        for weight, gradient in zip(pair.theirs.weights, found.of_weights):
            if gradient is not None or tied(weight.name) not in theirs:
                theirs[tied(weight.name)] = gradient
    for name, weight, ours in zip(names, pair.ours.weights, exact.of_weights):
        other = theirs.get(name)
        if ours is None:
            if weight.is_parameter:
                size = 0.0 if other is None else size_and_distance(other, other)[0]
                yield name, RawGradient(0.0, size, 0.0, why_no_output_shows(name, weight.shape))
            continue
        size, difference = size_and_distance(ours, other)
        yield name, RawGradient(size, difference, moved.get(name, 0.0), why_no_output_shows(name, weight.shape))


def _errors(pair: Pair, jobs: Sequence[Job], their_jobs: Sequence[Job], exact: Products, found: Products) -> tuple[float, float]:
    """The largest relative error of what comes out, and of the gradients that arrive.

    Where one model calls twice with the same input what the other calls once, the gradients of both calls count together.
    """
    number = {call: n for n, call in enumerate(pair.our_calls)}
    if any(call.original not in number for call in pair.their_calls):
        return float("inf"), float("inf")
    same_as = [next(n for n, other in enumerate(pair.our_calls) if other.given.is_as(call.given)) for call in pair.our_calls]
    places = [number[call.original] for call in pair.their_calls if call.original is not None]
    error = max(relative_error(output, exact.outputs[n]) for output, n in zip(found.outputs, places))
    further = zip(found.outputs[len(pair.their_calls) :], exact.outputs[len(pair.our_calls) :])
    error = max([error, *(relative_error(*both) for both in further)])
    ours = _sums(jobs, same_as)
    theirs = _sums(their_jobs, [same_as[n] for n in places])
    largest = max(map(magnitude, ours.values()), default=0.0)
    arrived = 0.0
    for n in ours.keys() | theirs.keys():
        mine = ours[n] if n in ours else torch.zeros_like(theirs[n])
        arrived = max(arrived, relative_error(theirs.get(n, torch.zeros_like(mine)), mine, largest))
    return error, arrived


def _sums(jobs: Sequence[Job], places: Sequence[int]) -> dict[int, Tensor]:
    """The gradients that arrive, added up by place."""
    sums: dict[int, Tensor] = {}
    for job, place in zip(jobs, places):
        if job.arriving is not None:
            sums[place] = sums[place] + job.arriving if place in sums else job.arriving
    return sums


def _with_faults(block: StreamedBlock, weights: Sequence[Tensor], jobs: Sequence[Job]) -> Iterator[tuple[PlantedFault, Sequence[Tensor]]]:
    """What comes out of the original's block with each fault planted in it."""
    for fault in faults_of(block.name, block.module):
        with planted(fault, block.module):
            yield fault, compute(block, [weight.detach() for weight in weights], jobs, torch.float64, gradients=False).outputs


def _each_once(pair: Pair) -> Pair:
    """One call for each input, so that both sides add up equally many seeded gradients."""
    theirs: dict[int, Call] = {}
    for call in pair.their_calls:
        given = (call.original or call).given
        if (number := next((n for n, other in enumerate(pair.our_calls) if other.given.is_as(given)), None)) is None:
            return pair
        theirs.setdefault(number, replace(call, original=pair.our_calls[number]))
    return replace(pair, our_calls=[pair.our_calls[n] for n in theirs], their_calls=[*theirs.values()]) if theirs else pair


def _seeded_job(job: Job) -> Job:
    main = job.given.main
    given = job.given.with_main(seeded_numbers(main, seed=0)) if main.is_floating_point() else job.given
    return Job(given, None, seeded=True)


def _weights(block: StreamedBlock, dtype: torch.dtype) -> list[Tensor]:
    return block.load(dtype)


def _seeded_weights(block: StreamedBlock, dtype: torch.dtype) -> list[Tensor]:
    """Seeded values for every weight, the same for the weights of one name; whole numbers are the model's own."""
    return [
        load(seeded(tied(weight.name), weight.shape, seed=0), dtype) if weight.is_parameter else weight.load(dtype)
        for weight in block.weights
    ]


def _both_in_float64(
    pair: Pair, stored: list[Tensor], fill: Callable[[StreamedBlock, torch.dtype], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides' weights in float64. One of theirs that equals ours of the same name shares its memory.

    ``stored`` is ours in float32, and is emptied: what is mapped from a file is in memory too.
    """
    numbers = {tied(weight.name): number for number, weight in enumerate(pair.ours.weights)}

    def value_or_number(name: str, value: Tensor) -> Tensor | int:
        """The number of ours that equals it, if there is one."""
        number = numbers.get(tied(name))
        is_ours = number is not None and stored[number].shape == value.shape and torch.equal(stored[number], value)
        return number if number is not None and is_ours else value

    theirs = (
        [value_or_number(w.name, value) for w, value in zip(pair.theirs.weights, fill(pair.theirs, torch.float32))] if pair.theirs else []
    )
    stored.clear()
    ours = fill(pair.ours, torch.float64)
    return ours, [ours[value].detach() if isinstance(value, int) else _as_float64(value) for value in theirs]


def _as_float64(weight: Tensor) -> Tensor:
    return weight.double() if weight.is_floating_point() else weight


def _worst(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(map(relative_error, actual, expected))
