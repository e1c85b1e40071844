"""The way of every layout's keys to transformers' names, and back.

Only the tables from the original's layout say what becomes what. A torchmultimodal key goes back
through its table to the original's name, and on from there as the original's does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .recognise import Kind, recognise
from .rules import (
    CODEBOOK,
    CODEBOOK_PREFIX,
    FLAVA,
    MODEL_PREFIX,
    TORCHMULTIMODAL,
    Trace,
    describe,
    source_name,
    table_for,
)


@dataclass(frozen=True)
class Way:
    """``to`` leads a file's key to `FlavaForPreTraining`'s name, ``back`` leads that name to the file's."""

    to: Callable[[str], Trace]
    back: Callable[[str], str]


def to_hugging_face(original: str) -> Trace:
    """The way of a key of the original, its codebook's included, to `FlavaForPreTraining`'s."""
    return _codebook(original) if table_for(original) is CODEBOOK else FLAVA.trace(original)


def from_torchmultimodal(key: str) -> Trace:
    """The way of a torchmultimodal `FLAVAForPreTraining`'s key to transformers', by way of the original's name."""
    back = TORCHMULTIMODAL.back(key)
    on = to_hugging_face(back.target)
    steps = [replace(step, table=TORCHMULTIMODAL.name) for step in back.steps]
    steps += [replace(step, table=table_for(back.target).name) for step in on.steps]
    return Trace(key, tuple(steps), on.target, on.dropped)


def to_torchmultimodal(target: str) -> str | None:
    """torchmultimodal's name for a key of `FlavaForPreTraining`."""
    return TORCHMULTIMODAL.rename(source_name(target))


def _codebook(key: str) -> Trace:
    trace = CODEBOOK.trace(key)
    return replace(trace, target=CODEBOOK_PREFIX + trace.target)


def _bare_torchmultimodal(key: str) -> Trace:
    return replace(from_torchmultimodal(MODEL_PREFIX + key), source=key)


def _already_there(key: str) -> Trace:
    return Trace(key, (), key)


WAYS = {
    Kind.ORIGINAL: Way(FLAVA.trace, source_name),
    Kind.DALLE: Way(_codebook, source_name),
    Kind.TORCHMULTIMODAL: Way(from_torchmultimodal, lambda target: to_torchmultimodal(target) or target),
    Kind.TORCHMULTIMODAL_MODEL: Way(
        _bare_torchmultimodal, lambda target: (to_torchmultimodal(target) or target).removeprefix(MODEL_PREFIX)
    ),
    Kind.HUGGING_FACE: Way(_already_there, str),
}


def describe_way(key: str) -> str:
    """The key's way through the tables to transformers' name, a line a step."""
    if (kind := recognise([key])) in (Kind.TORCHMULTIMODAL, Kind.TORCHMULTIMODAL_MODEL):
        return describe(WAYS[kind].to(key))
    return describe(table_for(key).trace(key))
