"""What trainers wrap around a model, taken out of its keys: wrappers' names anywhere, and a prefix that all keys share.

A model inside of another has the other's name for it before every key (``student.``, ``net.model.``). Which prefix
that is shows in what follows it: names that the rules of a layout lead to keys of the model.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from .layouts import WAYS, Layout, recognise
from .tables import CODEBOOK_PREFIX, TORCHMULTIMODAL

FLAVA_PREFIX = "flava."  # of the encoders' keys in `FlavaForPreTraining`

# torch.compile, FSDP, activation checkpointing, Lightning's Fabric: no key of FLAVA has any of these names in it.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_MODULE = "module"  # DataParallel and its kin; in the original's layout each encoder's own keys have it too
_ENCODERS = {"image_encoder", "text_encoder", "mm_encoder"}

# Names that older code gave a layer norm's weight and bias, and some releases of transformers write again.
_LAYER_NORMS = {"gamma": "weight", "beta": "bias"}

NAME_CHARS_MAX = 400  # of a name that can be a wrapped model's key; FLAVA's own have at most 80
PREFIX_PARTS_MAX = 8


@dataclass(frozen=True)
class Naming:
    """A layout, and the prefix of its keys that files of this naming leave out."""

    layout: Layout
    adds: str = ""


NAMINGS = (
    Naming(Layout.ORIGINAL),
    Naming(Layout.TORCHMULTIMODAL),
    Naming(Layout.TORCHMULTIMODAL_MODEL),
    Naming(Layout.HUGGING_FACE),
    Naming(Layout.HUGGING_FACE, FLAVA_PREFIX),  # of a FlavaModel
    Naming(Layout.DALLE),
    Naming(Layout.HUGGING_FACE_CODEBOOK),
    Naming(Layout.HUGGING_FACE_CODEBOOK, CODEBOOK_PREFIX),  # of a FlavaImageCodebook
)

ENCODERS_ALONE = (NAMINGS[2], NAMINGS[4])


@dataclass(frozen=True)
class Reading:
    """One way to read the names in a file: their naming, the prefix, and the key that each name stands for.

    Names that stand for no key are left out. Wrappers' names are taken out of the prefix too.
    """

    naming: Naming
    prefix: str
    keys: Mapping[str, str]


def readings(names: Iterable[str], targets: Iterable[str]) -> list[Reading]:
    """Every way to read some of the names, the one that reads most of them first, then the one with the shortest prefix.

    ``targets`` are all keys of a `FlavaForPreTraining`, of any size.
    """
    known = _of_all_layers(tuple(targets))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if len(name) <= NAME_CHARS_MAX:
            alike[_of_any_layer(name)].append(name)
    found: dict[tuple[Naming, str], dict[str, str]] = defaultdict(dict)
    for example, same in alike.items():
        for naming, first in _ways_to_read(example, known):
            for name in same:
                parts = _unwrapped(name, naming.layout)
                found[naming, "".join(f"{part}." for part in parts[:first])][name] = naming.adds + ".".join(parts[first:])
    ways = (Reading(naming, prefix, keys) for (naming, prefix), keys in found.items())
    return sorted(filter(_is_shown, ways), key=lambda way: (-len(way.keys), way.prefix.count("."), NAMINGS.index(way.naming)))


@cache
def _of_all_layers(targets: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_of_any_layer, targets))


def _ways_to_read(name: str, known: frozenset[str]) -> Iterator[tuple[Naming, int]]:
    """The namings in which the name is a key from one of its parts on, and which part that is."""
    beginnings = _beginnings(known)
    for naming in NAMINGS:
        parts = _unwrapped(name, naming.layout)
        for first, part in enumerate(parts[:PREFIX_PARTS_MAX]):
            if part in beginnings and _fits(naming, ".".join(parts[first:]), known):
                yield naming, first


@cache
def _beginnings(known: frozenset[str]) -> frozenset[str]:
    """The first parts of all keys in all namings: a shortcut, for most parts of most names are none of them."""
    keys = [
        (naming.adds and target.removeprefix(naming.adds)) or WAYS[naming.layout].back(target) for naming in NAMINGS for target in known
    ]
    return frozenset(key.split(".")[0] for key in (*keys, *(rule.target for rule in TORCHMULTIMODAL.older)))


def _is_shown(way: Reading) -> bool:
    """Whether most of the keys are of this layout alone: many models have a text_projection.weight."""
    return recognise(key.removeprefix(way.naming.adds) for key in way.keys.values()) is way.naming.layout


@lru_cache(maxsize=1 << 14)
def _fits(naming: Naming, rest: str, known: frozenset[str]) -> bool:
    """Whether the rules of a naming's layout lead a key to one of the model's."""
    way = WAYS[naming.layout]
    trace = way.to(naming.adds + rest)
    if trace.dropped:
        trace = way.to(trace.dropped.kept_key(rest))
    has_moved = bool(trace.steps) or naming.layout in (Layout.HUGGING_FACE, Layout.HUGGING_FACE_CODEBOOK)
    return has_moved and trace.target in known


def _unwrapped(name: str, layout: Layout) -> list[str]:
    """The parts of a name without wrappers; of the original's, with the ``module`` that each encoder's keys have."""
    parts: list[str] = []
    for part in name.split("."):
        is_own = layout is Layout.ORIGINAL and bool(parts) and parts[-1] in _ENCODERS
        if part not in _WRAPPERS and (part != _MODULE or is_own):
            parts.append(part)
    if parts and parts[-1] in _LAYER_NORMS:
        parts[-1] = _LAYER_NORMS[parts[-1]]
    return parts


_NUMBER = re.compile(r"(?<=\.layer\.)\d+(?=\.)|(?<=\.block_)\d+(?=\.)")


def _of_any_layer(key: str) -> str:
    """The key with its layer's or its block's number replaced, so that one key stands for those of all layers."""
    return _NUMBER.sub("1", key)
