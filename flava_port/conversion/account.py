"""Accounts for every key, once: it is renamed to one target, or dropped where that loses nothing.

`rename_all` leads every key through the rules; `account` compares where they lead with what the model expects. A
missing, extra, duplicate or misshapen key stops the conversion. All are reported together, each with its name in
the file, the rules that renamed it, and the nearest key that is known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TypeAlias

import numpy as np

from ..errors import NotFaithful
from ..files.dtypes import FLOATS
from ..files.tensors import ArrayTensor, TensorSource, UnsupportedTensor, cast, first_difference, whole
from ..reading.sources import StateDict, source_for
from ..rules.engine import Trace
from ..rules.layouts import Layout
from ..target.keys import POSITION_IDS, POSITIONS, TIED
from ..target.parts import WHOLE, Part
from ..target.shapes import Shapes
from ..text import few

PROBLEMS_SHOWN = 6

Problem: TypeAlias = str | Callable[[], str]  # its text, or what makes it


@dataclass(frozen=True)
class Placed:
    """One tensor of a state dict, and the model's key that the rules lead its key to."""

    source: StateDict
    key: str
    tensor: TensorSource | UnsupportedTensor
    trace: Trace
    target: str
    copy_of: str = ""  # where the rules drop the key, that of the copy that is kept; ``target`` is that one's

    @property
    def name_in_file(self) -> str:
        return self.source.name_in_file(self.key)

    def __str__(self) -> str:
        rules = "" if self.source.layout is Layout.HUGGING_FACE else f", {self.trace.rules}"
        return f"{self.name_in_file} ({self.source.name}{rules})"


@dataclass(frozen=True)
class Renamed:
    """Where the rules lead all keys: by target, the second copies that they drop, and where two keys meet in one."""

    sources: Sequence[StateDict]
    targets: dict[str, Placed] = field(default_factory=dict)
    copies: list[Placed] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dropped:
    """A tensor that is left out, and why that loses nothing."""

    placed: Placed
    kind: str  # why, for a summary
    because: str  # why, for the record of its key


@dataclass(frozen=True)
class Made:
    """A key that the checkpoint lacks and no output depends on, filled with a default, and why that is right."""

    tensor: ArrayTensor
    because: str


@dataclass(frozen=True)
class Placement:
    """What became of every key: targets filled (tied ones may share a source), keys dropped, and targets made."""

    filled: Mapping[str, Placed]
    dropped: tuple[Dropped, ...]
    made: Mapping[str, Made]

    def tensors(self) -> dict[str, TensorSource]:
        """Each target's tensor, without those that are made."""
        return {key: placed.tensor for key, placed in self.filled.items() if not isinstance(placed.tensor, UnsupportedTensor)}


def rename_all(sources: Sequence[StateDict]) -> Renamed:
    """Every key of the state dicts, led through the rules of its layout."""
    renamed = Renamed(sources)
    for source in sources:
        for key, tensor in source.tensors.items():
            trace = source.way.to(key)
            kept = trace.dropped.kept_key(key) if trace.dropped else ""
            target = (source.way.to(kept) if kept else trace).target
            assert target is not None  # no table drops a copy that it keeps
            placed = Placed(source, key, tensor, trace, target, kept)
            if kept:
                renamed.copies.append(placed)
            elif (other := renamed.targets.setdefault(placed.target, placed)) is not placed:
                renamed.clashes.append(f"{placed} and {other} both become {placed.target}")
    return renamed


def shapes_of(targets: Mapping[str, Placed]) -> dict[str, tuple[int, ...]]:
    """The shapes by target; tensors that have none (sparse, quantised) left out."""
    return {key: placed.tensor.shape for key, placed in targets.items() if not isinstance(placed.tensor, UnsupportedTensor)}


def account(renamed: Renamed, expected: Shapes | None = None, part: Part = WHOLE, made: Mapping[str, Made] | None = None) -> Placement:
    """What becomes of every key, after proving that nothing is lost, missing, misshapen or left over.

    ``expected`` has the shape of every key of the model. Without it any key is right, and ties and position_ids stay as
    they are: a state dict in memory need not be whole. Keys outside of ``part`` are left out; ``made`` fills keys that
    the checkpoint may lack.

    Raises:
        NotFaithful: there are problems; the first few are listed, the others counted.
    """
    filled = {key: placed for key, placed in renamed.targets.items() if part.holds(key)}
    outside = [placed for placed in (*renamed.targets.values(), *renamed.copies) if not part.holds(placed.target)]
    position_ids, ties = None, []
    misfits: list[Problem] = [*renamed.clashes]
    if expected is not None:
        position_ids = filled.pop(POSITION_IDS, None)
        ties = [(filled[one], filled[other]) for one, other in TIED if one in filled and other in filled]
        filled |= {other: filled[key] for pair in TIED for key, other in (pair, pair[::-1]) if key in filled and other not in filled}
        made = {key: value for key, value in (made or {}).items() if key in expected and key not in filled}
        misfits += _misfits(filled, expected, made, renamed.sources)
    stop_on(misfits)  # before a value is read: a tensor of a wrong shape may be of any size
    unequal = [*_copies_that_differ(renamed), *_that_differ("one bias under two keys differs", ties)]
    dropped = [
        Dropped(placed, "second copies, each bit-equal to the one kept", f"bit-equal to {placed.copy_of}, which is kept")
        for placed in renamed.copies
        if part.holds(placed.target)
    ]
    if expected is not None and position_ids is not None:
        count = expected[POSITIONS][0]
        if not counts_up(position_ids.tensor, count):
            unequal.append(f"{position_ids.name_in_file} does not hold 0, 1, 2, ..., {count - 1}, which the model computes in its place")
        dropped.append(Dropped(position_ids, "position_ids, which hold 0, 1, 2, ... and are recomputed", "holds 0, 1, 2, ...; recomputed"))
    stop_on(unequal)
    dropped += [Dropped(placed, f"outside of {part}, and left out", f"outside of {part}") for placed in outside]
    in_order = filled if expected is None else [key for key in expected if key in filled]
    return Placement({key: filled[key] for key in in_order}, tuple(dropped), made or {})


def stop_on(problems: Iterable[Problem]) -> None:
    """Raises NotFaithful with the first few problems, if there are any."""
    if problems := list(problems):
        shown = [problem if isinstance(problem, str) else problem() for problem in few(problems, PROBLEMS_SHOWN)]
        raise NotFaithful("\n  ".join(["cannot be converted faithfully:", *shown]))


def _misfits(filled: Mapping[str, Placed], expected: Shapes, made: Mapping[str, Made], sources: Sequence[StateDict]) -> list[Problem]:
    """Keys that the model does not have, keys that the checkpoint lacks, and tensors of a wrong shape or dtype."""
    # Searching the nearest key takes long, so it is left to the few problems that are shown.
    problems: list[Problem] = [partial(_unexpected, filled[key], expected) for key in filled if key not in expected]
    missing = [key for key in expected if key not in filled and key not in made]
    problems += [partial(_missing, key, filled, expected, source_for(key, sources)) for key in missing]
    return problems + [problem for key in filled if key in expected for problem in _unfit(key, filled[key], expected[key])]


def _unexpected(placed: Placed, expected: Shapes) -> str:
    how = f"becomes {placed.target}, which the model has no place for" if placed.trace.steps else "the model has no place for it"
    near = get_close_matches(placed.key, map(placed.source.way.back, expected))
    return f"unexpected {placed}: {how}" + (f"; the nearest key is {near[0]}" if near else "")


def _missing(key: str, filled: Mapping[str, Placed], expected: Shapes, source: StateDict) -> str:
    spare = [candidate for candidate in filled if candidate not in expected]
    near = get_close_matches(key, spare, cutoff=0.8)
    hint = f"; the nearest key in the file is {filled[near[0]].name_in_file}" if near else ""
    name = source.way.back(key)
    return f"missing {name}: the {source.name} has no tensor for {'it' if name == key else key}, shape {list(expected[key])}{hint}"


def _unfit(key: str, placed: Placed, shape: tuple[int, ...]) -> list[str]:
    tensor = placed.tensor
    if isinstance(tensor, UnsupportedTensor):
        return [f"{placed} is {tensor}; {tensor.advice}"]
    shapes = f"wrong shape: {placed} is {list(tensor.shape)}, the model's {key} is {list(shape)}"
    dtypes = f"wrong dtype: {placed} is {tensor.dtype}; weights are float16, bfloat16, float32 or float64"
    return [shapes] * (tensor.shape != tuple(shape)) + [dtypes] * (tensor.dtype not in FLOATS)


def _copies_that_differ(renamed: Renamed) -> list[str]:
    """Why keys that the rules drop are not proven to be copies of those that are kept."""
    kept = {placed.key: placed for placed in renamed.targets.values()}
    alone = [copy for copy in renamed.copies if copy.copy_of not in kept]
    lost = [f"{copy.name_in_file} would be dropped as a second copy, but there is no {copy.copy_of}" for copy in alone]
    pairs = [(copy, kept[copy.copy_of]) for copy in renamed.copies if copy.copy_of in kept]
    return lost + _that_differ("two copies that should be one differ", pairs)


def _that_differ(what: str, pairs: Iterable[tuple[Placed, Placed]]) -> list[str]:
    """A line for each pair of tensors that are not equal bit for bit."""
    found = [(one, other, _how_they_differ(one.tensor, other.tensor)) for one, other in pairs]
    return [f"{what}: {one.name_in_file} and {other.name_in_file}, {how}" for one, other, how in found if how]


def _how_they_differ(one: TensorSource | UnsupportedTensor, other: TensorSource | UnsupportedTensor) -> str:
    forms = [tensor.kind if isinstance(tensor, UnsupportedTensor) else f"{tensor.dtype} {list(tensor.shape)}" for tensor in (one, other)]
    if forms[0] != forms[1]:
        return " and ".join(forms)
    if isinstance(one, UnsupportedTensor) or isinstance(other, UnsupportedTensor):
        return f"both {forms[0]}, which cannot be compared"
    return "" if one is other else str(first_difference(one, other) or "")


def counts_up(tensor: TensorSource | UnsupportedTensor, count: int) -> bool:
    """Whether it is [1, count] and holds 0, 1, 2, ..., in a float dtype as that rounds them (bfloat16 has no 257)."""
    if isinstance(tensor, UnsupportedTensor) or tensor.shape != (1, count) or tensor.dtype.kind not in ("integer", "float"):
        return False
    counted = cast(ArrayTensor(np.arange(count)), tensor.dtype) if tensor.dtype in FLOATS else ArrayTensor(np.arange(count))
    return bool((whole(tensor)[0] == whole(counted)).all())
