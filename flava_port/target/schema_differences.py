"""In what two schemas differ: a line for each difference, in the keys of the state dict."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .config import ENCODERS
from .schema import Schema, flat

Shape = tuple[int, ...]


def schema_differences(known: Schema, observed: Schema) -> list[str]:
    """Every way in which the second schema is not the first; none for the same epoch.

    What is so in every layer of an encoder is one line, in which N stands for the layer's number. Shapes are those
    under the probe's config.
    """
    both = known.shapes.keys() & observed.shapes.keys()
    lines = [
        *_of_keys(known, observed),
        *_of_values("dtype", known.dtypes, observed.dtypes, "float32", among=both),
        *(f"removed tie {tie}" for tie in known.ties if tie not in observed.ties),
        *(f"added tie {tie}" for tie in observed.ties if tie not in known.ties),
        *_of_values("epsilon", known.epsilons, observed.epsilons, "none", among=known.epsilons.keys() & observed.epsilons.keys()),
        *_of_values("default", flat(known.defaults), flat(observed.defaults), "absent"),
    ]
    return list(_layers_together(lines, {*known.shapes, *observed.shapes}))


def in_short(lines: Iterable[str]) -> list[str]:
    """The same with likes together: what is so in several encoders once, and a module once for its weight and its bias."""
    found: dict[str, list[str]] = {}  # by the text without an encoder's name: the encoders
    for line in lines:
        if renamed := re.fullmatch(r"renamed (\S+) -> (\S+)", line):
            line = "renamed {} to {}".format(*_without_common_end(*renamed.groups()))
        else:
            line = re.sub(r"(\.weight|\.bias)?(:? \[[\d, ]*\]( -> \[[\d, ]*\])?)$", "", line)
        encoders = [name for name in ENCODERS.values() if re.search(rf"(flava\.{name}_model|\b{name}_config)\.", line)]
        if len(encoders) == 1:
            line = re.sub(r"flava\.\w+_model\.|\b\w+_config\.", "", line)
        found.setdefault(line, []).extend(name for name in encoders if name not in found.get(line, ()))
    return [line + _in_encoders(encoders) for line, encoders in found.items()]


def _without_common_end(old: str, new: str) -> tuple[str, str]:
    """Two keys up to the last name in which they differ."""
    first, second = old.split("."), new.split(".")
    while len(first) > 1 and len(second) > 1 and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return ".".join(first), ".".join(second)


def _in_encoders(names: Sequence[str]) -> str:
    if len(names) == len(ENCODERS):
        return " in all three encoders"
    return f" in the {' and the '.join(names)} encoder{'s' if len(names) > 1 else ''}" if names else ""


def renamings(removed: Sequence[str], added: Sequence[str], old: Mapping[str, Shape], new: Mapping[str, Shape]) -> dict[str, str]:
    """Removed keys, each with the added key that took its place: of the same shape, and with the most names in common."""
    left, found = list(added), {}
    for key in removed:
        fitting = [other for other in left if old[key] == new[other] and _names_in_common(key, other)]
        if fitting:
            found[key] = max(fitting, key=lambda other: _names_in_common(key, other))
            left.remove(found[key])
    return found


def _names_in_common(key: str, other: str) -> int:
    """How many names two keys share at their beginnings and ends; 0 where they begin with different ones."""
    first, second = key.split("."), other.split(".")
    same_front = next((n for n, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    same_back = next((n for n, (a, b) in enumerate(zip(first[::-1], second[::-1])) if a != b), 0)
    return same_front + same_back if same_front else 0


def _of_keys(known: Schema, observed: Schema) -> Iterator[str]:
    removed = [key for key in known.shapes if key not in observed.shapes]
    added = [key for key in observed.shapes if key not in known.shapes]
    renamed = renamings(removed, added, known.shapes, observed.shapes)
    yield from (f"renamed {old} -> {new}" for old, new in renamed.items())
    for what, keys, schema in (("removed", removed, known), ("added", added, observed)):
        named = {*renamed, *renamed.values()}
        yield from (f"{what} {_buffer(key, schema)}{key} {list(schema.shapes[key])}" for key in keys if key not in named)
    for key in (key for key in known.shapes if key in observed.shapes):
        if known.shapes[key] != observed.shapes[key]:
            yield f"shape of {key}: {list(known.shapes[key])} -> {list(observed.shapes[key])}"
        if (key in known.buffers) != (key in observed.buffers):
            yield f"{key}: {_buffer(key, known) or 'parameter '}-> {_buffer(key, observed) or 'parameter'}".rstrip()
        if (key in known.switched) != (key in observed.switched):
            yield f"{key}: {'no longer' if key in known.switched else 'now'} left out where the config's switches are off"


def _buffer(key: str, schema: Schema) -> str:
    return "persistent buffer " if key in schema.buffers else ""


def _of_values(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], missing: str, among: Iterable[str] | None = None
) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, missing), new.get(name, missing)
        if before != after and (among is None or name in among):
            yield f"{what} of {name}: {before} -> {after}"


_NUMBERED = re.compile(r"(\S+?(?:\.|block_))(\d+)\.")


def _layers_together(lines: Iterable[str], keys: Iterable[str]) -> Iterator[str]:
    """The lines; one that all layers of an encoder share, or all blocks of a codebook's group, once, with N for their number."""
    numbers: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if numbered := _NUMBERED.match(key):
            numbers[numbered[1]].add(numbered[2])
    likes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # by what precedes the number and the line with N: lines by number
    for line in lines:
        numbered = _NUMBERED.search(line)
        before, number = numbered.groups() if numbered else (line, "")
        likes[before, _with_n(line, before, number)][number] = line
    for (before, shared), found in likes.items():
        yield from [shared] if found.keys() == numbers[before] else found.values()


def _with_n(line: str, before: str, number: str) -> str:
    """The line with N for the number wherever it stands as the module's number that follows ``before``."""
    start = "block_" if before.endswith("block_") else "."
    return re.sub(rf"(?<={re.escape(start)}){number}(?=\.)", "N", line) if number else line
