"""What the blocks of a model are called with and what they give, recorded while the whole model runs.

The original runs first. When the converted model runs, what it gives to each block is compared with what the original's
block was given, and so is what comes out, where it runs; then it goes on with what came out of the original's block. So errors never
add up, and the block that differs first is the one at fault.

Between the blocks both models compute in float64. Their gradients stop at each block; `blocks` leads them through.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .forward import Runner, outputs_of, relative_error
from .scenarios import Scenario
from .streamed import Streamed, StreamedBlock


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a block is called with. The first tensor is what it works on: hidden states, pixels or ids."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def values(self) -> list[object]:
        return [*self.args, *self.kwargs.values()]

    def tensors(self) -> list[Tensor]:
        return [value for value in self.values() if isinstance(value, Tensor)]

    @property
    def main(self) -> Tensor:
        return self.tensors()[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Arguments":
        """The same with every tensor changed."""

        def changed(value: object) -> object:
            return change(value) if isinstance(value, Tensor) else value

        return Arguments(tuple(map(changed, self.args)), {name: changed(value) for name, value in self.kwargs.items()})

    def with_main(self, main: Tensor) -> "Arguments":
        return self.map(lambda tensor: main if tensor is self.main else tensor)

    def cast(self, dtype: torch.dtype, device: torch.device | None = None) -> "Arguments":
        """Floating point in ``dtype``, and without gradients. A mask's lowest number becomes the dtype's lowest."""

        def cast(tensor: Tensor) -> Tensor:
            tensor = tensor.detach().to(device)
            if not tensor.is_floating_point():
                return tensor
            limits = torch.finfo(dtype)
            return (tensor if tensor.abs().max() < limits.max else tensor.clamp(limits.min, limits.max)).to(dtype)

        return self.map(lambda tensor: cast(tensor) if tensor.numel() else tensor.detach())

    def is_as(self, other: "Arguments") -> bool:
        """Whether a block would compute the same from both."""
        ours, theirs = self.values(), other.values()
        return len(ours) == len(theirs) and self.kwargs.keys() == other.kwargs.keys() and all(map(_are_equal, ours, theirs))

    def is_like(self, other: "Arguments") -> bool:
        """Whether a block is given the same but for the values of what it works on."""
        one, two = self.main, other.main
        return one.shape == two.shape and one.dtype == two.dtype and self.with_main(two).is_as(other)

    def has_gradients_of(self, other: "Arguments") -> bool:
        """Whether gradients that reach the one reach the other: each tensor is the same, or takes none."""
        return all(one is two or not (one.requires_grad or two.requires_grad) for one, two in zip(self.tensors(), other.tensors()))


def _are_equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other))
    return type(one) is type(other) and one == other


@dataclass(eq=False)
class Call:
    """One call of a block: what it was given, what it gave, and what the original's block was given and gave there.

    ``entered`` and ``left`` are relative errors of what goes in and of what comes out, fed what the original's block got;
    ``left`` is 0 where the block did not run, for `Recorder.each_shape_once`.
    """

    block: StreamedBlock
    given: Arguments
    result: Any  # what the model gets: the output, or a tuple that begins with it
    original: "Call | None" = None
    entered: float = 0.0
    left: float = 0.0

    @property
    def output(self) -> Tensor:
        return first(self.result)


def first(result: Any) -> Tensor:
    """The tensor that a block's result is, or begins with."""
    return result[0] if isinstance(result, tuple) else result


@dataclass(eq=False)
class Recorder:
    """Runs a streamed model and records the calls of its blocks, which compute in ``dtype``.

    A block that is given again what it was given before is not run again. ``original`` has the original's calls, of the
    same scenarios in the same order. ``known`` has calls of a model whose blocks are the same but for the heads.
    The blocks of ``each_shape_once`` compute one input of a shape, and the original's output stands for that of others.
    """

    side: Streamed
    dtype: torch.dtype
    original: "Recorder | None" = None
    known: "Recorder | None" = None
    gradients: bool = False
    each_shape_once: Collection[str] = ()
    advance: Callable[[int], object] = lambda _: None
    of_cases: list[dict[str, list[Call]]] = field(default_factory=list)  # for each scenario each block's calls
    between: list[dict[str, Tensor]] = field(default_factory=list)  # for each scenario the weights between the blocks

    def run(self, run: Runner[Any], case: Scenario) -> dict[str, Tensor]:
        """The model's outputs on a scenario."""
        self.of_cases.append({})
        running = self.side.running(self._call, torch.float64, gradients=self.gradients)
        with running as between, torch.set_grad_enabled(self.gradients):
            self.between.append(between)
            return outputs_of(run, self.side.model, case)

    def calls(self, block: str) -> list[Call]:
        """All calls of a block, each once."""
        return list(dict.fromkeys(call for case in self.of_cases for call in case.get(block, ())))

    def blocks(self) -> list[str]:
        """The names of the blocks that were called, none before one on which it depends."""
        return list(dict.fromkeys(name for case in self.of_cases for name in case))

    def _call(self, block: StreamedBlock, *args: object, **kwargs: object) -> Any:
        given = Arguments(args, kwargs)
        known = self.known.calls(block.name) if self.known and block.name.startswith("flava.") else ()
        before = next((call for call in (*self.calls(block.name), *known) if call.given.is_as(given)), None)
        shared = before is not None and before.given.has_gradients_of(given)
        call = before if before is not None and shared else self._computed(block, given, before)
        inside = self.of_cases[-1].setdefault(block.name, [])
        if call not in inside:
            inside.append(call)
        return call.result

    def _computed(self, block: StreamedBlock, given: Arguments, before: Call | None) -> Call:
        if before is not None:
            return Call(block, given, self._leaf(before.result, before.output), before.original, before.entered, before.left)
        original = self._of_the_original(block, given)
        if original is None:
            result = self._run(block, given)
            return Call(block, given, self._leaf(result, first(result)))
        entered = relative_error(given.main, original.given.main)
        if block.name in self.each_shape_once and (like := self._of_this_shape(block, given, original)) is not None:
            return Call(block, given, self._leaf(like.result, original.output), original, entered)
        main = original.given.main if original.given.main.shape == given.main.shape else given.main
        result = self._run(block, given.with_main(main))
        left = relative_error(first(result), original.output)
        output = original.output if original.output.shape == first(result).shape else first(result)
        return Call(block, given, self._leaf(result, output), original, entered, left)

    def _of_this_shape(self, block: StreamedBlock, given: Arguments, original: Call) -> Call | None:
        """An earlier call with an input of this shape, where the original's two calls were like that too."""
        calls = ((call, call.original) for call in self.calls(block.name) if call.output.shape == original.output.shape)
        return next((call for call, other in calls if call.given.is_like(given) and other and other.given.is_like(original.given)), None)

    def _run(self, block: StreamedBlock, given: Arguments) -> Any:
        """The block's result. Rows that are all equal are computed once: how it treats others `blocks` compares."""
        given, rows = given.cast(self.dtype), len(given.main)
        repeated = rows > 1 and all(len(tensor) == rows and torch.equal(tensor, tensor[:1].expand_as(tensor)) for tensor in given.tensors())
        if repeated:
            given = given.map(lambda tensor: tensor[:1])
        with torch.no_grad(), block.filled(block.load(self.dtype)):
            result = block.forward(*given.args, **given.kwargs)
        self.advance(block.nbytes)
        if repeated:
            output = first(result).double().expand(rows, *first(result).shape[1:])  # which takes the memory of one row
            return (output, *result[1:]) if isinstance(result, tuple) else output
        return result

    def _leaf(self, result: Any, output: Tensor) -> Any:
        """The result with this output in it, at which gradients begin anew."""
        leaf = output.detach().to(torch.float64)
        leaf = leaf.clone() if leaf is output else leaf
        leaf.requires_grad_(self.gradients)
        return (leaf, *result[1:]) if isinstance(result, tuple) else leaf

    def _of_the_original(self, block: StreamedBlock, given: Arguments) -> Call | None:
        """The original's call with the same input in this scenario; else the one in the same place, or the last."""
        if self.original is None:
            return None
        calls = self.original.of_cases[len(self.of_cases) - 1].get(block.name, [])
        place = len(self.of_cases[-1].get(block.name, ()))
        same = next((call for call in (*calls[place:], *calls[:place]) if relative_error(given.main, call.given.main) < _SAME), None)
        return same or (calls[min(place, len(calls) - 1)] if calls else None)


_SAME = 1e-6  # far above what float64 rounds, far below what two calls of one block in a scenario differ by
