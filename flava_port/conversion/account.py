"""Accounts for every key: each source is renamed to one target or dropped with proof, each target is filled once.

Works on keys, shapes and unread tensors. Whatever does not come out even stops the conversion with
the key, where it came from, the rule that moved it and the nearest key that is known.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TypeAlias

import numpy as np

from ..errors import NotFaithful
from ..files.dtypes import FLOATS
from ..files.tensors import ArrayTensor, StoredTensor, UnsupportedTensor, cast, first_difference, whole
from ..rules.engine import Trace
from ..rules.tables import CODEBOOK_PREFIX
from ..target.keys import POSITION_IDS, POSITIONS, TIED
from ..target.parts import WHOLE, Part
from .sources import Source

PROBLEMS_SHOWN = 6

Problem: TypeAlias = str | Callable[[], str]  # its text, or what makes it

NOTHING_MADE: Mapping[str, "Made"] = {}


@dataclass(frozen=True)
class Placed:
    """One tensor of a source, and its key's way through the rules."""

    source: Source
    key: str
    trace: Trace
    tensor: StoredTensor | UnsupportedTensor

    @property
    def target(self) -> str | None:
        return self.trace.target

    @property
    def name_in_file(self) -> str:
        return self.source.checkpoint.name_in_file(self.key)

    def __str__(self) -> str:
        return f"{self.name_in_file} ({self.source.name}, {self.trace.rules})"


@dataclass(frozen=True)
class Dropped:
    """A source tensor that has no place of its own, and why that loses nothing."""

    placed: Placed
    kind: str
    because: str


@dataclass(frozen=True)
class Made:
    """A target that the source has nothing for and that no output shows: its value, and why it is no loss."""

    tensor: ArrayTensor
    because: str


@dataclass(frozen=True)
class Placement:
    """Where every source tensor went: targets filled (a tied target may share its source), and what was dropped."""

    filled: Mapping[str, Placed]
    dropped: tuple[Dropped, ...]
    made: Mapping[str, Made] = field(default_factory=dict)

    def reasons_for_dropping(self) -> dict[str, list[str]]:
        """The keys that were dropped, by the kind of reason."""
        reasons: dict[str, list[str]] = {}
        for entry in self.dropped:
            reasons.setdefault(entry.kind, []).append(entry.placed.name_in_file)
        return reasons


def rename_all(sources: Iterable[Source]) -> tuple[dict[str, Placed], list[Placed]]:
    """Every key through its table: targets with their sources, and the keys that a table drops.

    Raises:
        NotFaithful: two sources meet in one target.
    """
    renamed: dict[str, Placed] = {}
    dropped: list[Placed] = []
    problems = []
    for source in sources:
        for key, tensor in source.checkpoint.tensors.items():
            placed = Placed(source, key, source.way.to(key), tensor)
            if placed.target is None:
                dropped.append(placed)
            elif placed.target in renamed:
                problems.append(f"{placed} and {renamed[placed.target]} both become {placed.target}")
            else:
                renamed[placed.target] = placed
    stop_on(problems)
    return renamed, dropped


def shapes_of(renamed: Mapping[str, Placed]) -> dict[str, tuple[int, ...]]:
    """The shapes of what was renamed, by target key; tensors without one (sparse, quantised) left out."""
    return {key: placed.tensor.shape for key, placed in renamed.items() if isinstance(placed.tensor, StoredTensor)}


def account(
    renamed: Mapping[str, Placed],
    dropped: Iterable[Placed],
    expected: Mapping[str, tuple[int, ...]],
    part: Part = WHOLE,
    made: Mapping[str, Made] = NOTHING_MADE,
) -> Placement:
    """The placement, after proving that nothing is lost, missing, misshapen or left over.

    ``expected`` has the shape of every target key; what lies outside of ``part`` is left out on purpose.
    ``made`` fills the targets that a source may lack.

    Raises:
        NotFaithful: listing every key that does not come out even.
    """
    remaining = {key: placed for key, placed in renamed.items() if part.holds(key)}
    outside = [placed for key, placed in renamed.items() if not part.holds(key)]
    made = {key: value for key, value in made.items() if key in expected and key not in remaining}
    recomputed = [remaining.pop(POSITION_IDS)] if POSITION_IDS in remaining else []
    filled = _share_tied(remaining)
    name_of = names_of({placed.source.name: placed.source for placed in renamed.values()}.values())
    # Searching the nearest key takes long; it is done for the problems that are shown.
    problems: list[Problem] = [partial(_unplaced, filled[key], expected) for key in filled if key not in expected]
    problems += [partial(_unfilled, key, filled, expected, name_of) for key in expected if key not in filled and key not in made]
    problems += [p for key in filled if key in expected for p in _unfit(key, filled[key], expected[key])]
    stop_on(problems)
    by_source_key = {placed.key: placed for placed in renamed.values()}
    problems = [p for placed in dropped for p in _not_a_second_copy(placed, by_source_key)]
    problems += [p for placed in recomputed for p in _not_counting_up(placed, expected[POSITIONS][0])]
    problems += [p for pair in TIED if pair[0] in remaining and pair[1] in remaining for p in _not_tied(pair, remaining)]
    stop_on(problems)
    outside += [p for p in dropped if not part.holds(_target_of_kept(p))]
    reasons = [
        Dropped(p, "second copies, each bit-equal to the one kept", f"bit-equal to {p.trace.dropped.kept_key(p.key)}, which is kept")
        for p in dropped
        if part.holds(_target_of_kept(p))
    ]
    reasons += [
        Dropped(p, "position_ids, which hold 0, 1, 2, ... and are recomputed", "holds 0, 1, 2, ...; recomputed") for p in recomputed
    ]
    reasons += [Dropped(p, f"outside of {part}, and left out", f"outside of {part}") for p in outside]
    return Placement({key: filled[key] for key in expected if key in filled}, tuple(reasons), made)


def _target_of_kept(dropped: Placed) -> str:
    """Where the copy goes that is kept in place of one that is dropped."""
    return dropped.source.way.to(dropped.trace.dropped.kept_key(dropped.key)).target


def stop_on(problems: Iterable[Problem]) -> None:
    """Raises NotFaithful with the first few problems, if there are any."""
    problems = list(problems)
    if problems:
        shown = [problem if isinstance(problem, str) else problem() for problem in problems[:PROBLEMS_SHOWN]]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        raise NotFaithful("\n  ".join(["cannot be converted faithfully:", *shown]))


def _share_tied(renamed: Mapping[str, Placed]) -> dict[str, Placed]:
    """Both keys of a tied pair, where the source has only one of them."""
    filled = dict(renamed)
    for one, other in TIED:
        if one in filled or other in filled:
            filled.setdefault(one, filled.get(other))
            filled.setdefault(other, filled.get(one))
    return filled


def _unplaced(placed: Placed, expected: Mapping) -> str:
    how = f"becomes {placed.target}, which the model has no place for" if placed.trace.steps else "no rule places it"
    near = get_close_matches(placed.key, map(placed.source.way.back, expected))
    return f"unexpected {placed}: {how}" + (f"; the nearest key is {near[0]}" if near else "")


def names_of(sources: Iterable[Source]) -> Callable[[str], str]:
    """What the sources call a target: the checkpoint's names, and for the codebook its own file's where it has one."""
    ways = {source.name: source.way.back for source in sources}

    def name_of(target: str) -> str:
        own = ways.get("codebook") if target.startswith(CODEBOOK_PREFIX) else None
        return (own or ways["checkpoint"])(target)

    return name_of


def _unfilled(key: str, filled: Mapping, expected: Mapping, name_of: Callable[[str], str]) -> str:
    spare = [candidate for candidate in filled if candidate not in expected]
    near = get_close_matches(key, spare, cutoff=0.8)
    hint = f"; the nearest key in the file is {filled[near[0]].name_in_file}" if near else ""
    return f"missing {name_of(key)}: nothing fills {key} {list(expected[key])}{hint}"


def _unfit(key: str, placed: Placed, shape: tuple[int, ...]) -> list[str]:
    tensor = placed.tensor
    if isinstance(tensor, UnsupportedTensor):
        return [f"{placed} is a {tensor.kind} tensor; convert it to a dense floating point tensor first"]
    problems = []
    if tensor.shape != tuple(shape):
        problems.append(f"wrong shape: {placed} is {list(tensor.shape)}, the model's {key} is {list(shape)}")
    if tensor.dtype not in FLOATS:
        problems.append(f"wrong dtype: {placed} is {tensor.dtype}; weights are float16, bfloat16, float32 or float64")
    return problems


def _not_a_second_copy(placed: Placed, by_source_key: Mapping[str, Placed]) -> list[str]:
    """Why a key that the table drops is not proven to be a copy of the one it keeps."""
    kept_key = placed.trace.dropped.kept_key(placed.key)
    kept = by_source_key.get(kept_key)
    if kept is None:
        return [f"{placed.name_in_file} would be dropped as a second copy, but there is no {kept_key}"]
    if how := how_they_differ(placed.tensor, kept.tensor):
        return [f"two copies that should be one differ: {placed.name_in_file} and {kept.name_in_file}, {how}"]
    return []


def _not_tied(pair: tuple[str, str], renamed: Mapping[str, Placed]) -> list[str]:
    ours, theirs = renamed[pair[0]], renamed[pair[1]]
    if how := how_they_differ(ours.tensor, theirs.tensor):
        return [f"one bias under two keys differs: {ours.name_in_file} and {theirs.name_in_file}, {how}"]
    return []


def how_they_differ(ours: StoredTensor | UnsupportedTensor, theirs: StoredTensor | UnsupportedTensor) -> str:
    """How two tensors differ, or nothing where they are equal bit for bit."""
    kinds = [t.kind if isinstance(t, UnsupportedTensor) else f"{t.dtype} {list(t.shape)}" for t in (ours, theirs)]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} and {kinds[1]}"
    if isinstance(ours, UnsupportedTensor):
        return f"both {ours.kind}, which cannot be compared"
    return str(first_difference(ours, theirs) or "")


def _not_counting_up(placed: Placed, count: int) -> list[str]:
    """position_ids may be left out only where they are what the model computes."""
    if counts_up(placed.tensor, count):
        return []
    return [f"{placed.name_in_file} does not hold 0, 1, 2, ..., {count - 1}: the model would compute others"]


def counts_up(tensor: StoredTensor | UnsupportedTensor, count: int) -> bool:
    """Whether it is [1, count] and holds 0, 1, 2, ..., those of a float dtype as it rounds them (bfloat16 has no 257)."""
    if not isinstance(tensor, StoredTensor) or tensor.shape != (1, count) or tensor.dtype.kind not in ("integer", "float"):
        return False
    counted = ArrayTensor(np.arange(count))
    if tensor.dtype in FLOATS:
        counted = cast(counted, tensor.dtype)
    return bool((whole(tensor)[0] == whole(counted)).all())
