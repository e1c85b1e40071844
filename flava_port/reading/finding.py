"""Finds the model in what a file holds: which of its state dicts, behind which prefix and wrappers, and what stands beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from ..errors import InvalidInput, NotFaithful
from ..files.checkpoint import Checkpoint, Content
from ..files.foreign import FULL_STATE_DICT, ZERO_TO_FP32, known_by_its_content, known_by_its_keys
from ..files.pickle_objects import class_of
from ..files.state_dicts import CONTAINERS, StateDictInFile, is_tensor, name_of
from ..files.tensors import ReshapedTensor, TensorInFile, UnsupportedTensor
from ..rules.layouts import WAYS, Layout
from ..rules.wrappers import ENCODERS_ALONE, Naming, Reading, readings
from ..target.keys import LOGIT_SCALE, POSITION_IDS
from ..target.shapes import expected_shapes
from ..text import few, shown

TENSORS_MAX = 100_000  # of all state dicts in a file together; a FLAVA of 10 billion parameters has 3,000, its optimizer twice as many
WHOLE_ENOUGH = 0.9  # of the keys of the state dict that has most, for another to be a whole model too


@dataclass(frozen=True)
class Wish:
    """What the user says about where the model stands in a file, and what to leave out of it."""

    container: str | None = None
    prefix: str | None = None
    drop: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """A model in a file: its state dict under the keys of one layout."""

    checkpoint: Checkpoint
    naming: Naming

    @property
    def layout(self) -> Layout:
        return self.naming.layout


@dataclass(frozen=True)
class _Candidate:
    """A state dict in a file, and how it is read; ``out`` has the names that the user leaves out, and why."""

    state_dict: StateDictInFile
    ways: Sequence[Reading]
    out: Mapping[str, str]

    @property
    def count(self) -> int:
        return len(self.ways[0].keys) if self.ways else 0

    @property
    def layout(self) -> Layout:
        return self.ways[0].naming.layout if self.ways else Layout.UNKNOWN


def find_model(content: Content, wanted: Sequence[Layout], wish: Wish) -> Found:
    """The model in a file, in one of the wanted layouts.

    Raises:
        InvalidInput: there is none, there are several and nothing says which, or its tensors are shards of one rank.
        NotFaithful: two names in the file stand for one key.
    """
    candidates = [_candidate(found, wanted, wish) for found in _named(content, wish)]
    fitting = [candidate for candidate in candidates if candidate.ways and candidate.layout in wanted]
    if not fitting:
        raise InvalidInput(f"{content.called}: {_what_it_is(content, candidates, wanted)}")
    chosen, notes = _choose(content, fitting)
    way = _only_way(content, chosen, wish)
    if unused := [glob for glob in wish.drop if not any(fnmatchcase(name, glob) for name in chosen.out)]:
        raise InvalidInput(f"{content.called}: --drop {unused[0]}: no key in it matches")
    return Found(_checkpoint(content, chosen, way, notes, wish), way.naming)


def _named(content: Content, wish: Wish) -> list[StateDictInFile]:
    """The state dicts in the file, or the one that the user names."""
    found = content.state_dicts()
    if sum(len(each.entries) for each in found) > TENSORS_MAX:
        raise InvalidInput(f"{content.called}: holds more than {TENSORS_MAX:,} keys, more than any model has")
    if wish.container is None:
        return found
    of_that_name = [each for each in found if wish.container == each.container]
    of_that_name = of_that_name or [each for each in found if each.names()[-1:] == [wish.container]]
    if not of_that_name:
        names = ", ".join(few([shown(each.container) or "(no container)" for each in found], 6))
        raise InvalidInput(f"{content.called}: --container {wish.container}: no state dict under that name; there are: {names}")
    return of_that_name


_TARGETS = (*expected_shapes({}), POSITION_IDS)


def _candidate(found: StateDictInFile, wanted: Sequence[Layout], wish: Wish) -> _Candidate:
    """The ways to read a state dict, without what the user leaves out: most keys first, and of as many the wanted layouts'."""
    names = [name_of(key) for key in found.entries]
    out = {name: f"left out by --drop {glob}" for name in names for glob in wish.drop if fnmatchcase(name, glob)}
    left = [name for name in names if name not in out]
    if wish.prefix is None:
        ways = readings(left, _TARGETS)
    else:
        before = wish.prefix.rstrip(".") + "." if wish.prefix else ""
        inside = {name.removeprefix(before): name for name in left if name.startswith(before)}
        ways = [way for way in readings(inside, _TARGETS) if not way.prefix]
        ways = [replace(way, prefix=before, keys={inside[rest]: key for rest, key in way.keys.items()}) for way in ways]
    return _Candidate(found, sorted(ways, key=lambda way: (-len(way.keys), way.naming.layout not in wanted)), out)


def _choose(content: Content, fitting: Sequence[_Candidate]) -> tuple[_Candidate, list[str]]:
    """The one whole model, or of several the one under a usual name; and notes about the others."""
    most = max(candidate.count for candidate in fitting)
    whole = [candidate for candidate in fitting if candidate.count >= WHOLE_ENOUGH * most]
    others = [_container(candidate) for candidate in whole]
    if len(whole) == 1:
        return whole[0], []
    usual = sorted(filter(_is_usual, whole), key=lambda candidate: [CONTAINERS.index(name) for name in candidate.state_dict.names()])
    if not usual:
        ways = " or ".join(f"--container {name}" for name in few(others, 4))
        raise InvalidInput(f"{content.called}: holds several whole models and none under a usual name; choose one: {ways}")
    others.remove(_container(usual[0]))
    return usual[0], [f"a whole model stands under {name} too; --container {name} takes that one" for name in others]


def _container(candidate: _Candidate) -> str:
    return shown(candidate.state_dict.container) or "''"


def _is_usual(candidate: _Candidate) -> bool:
    return all(name in CONTAINERS for name in candidate.state_dict.names())


def _only_way(content: Content, chosen: _Candidate, wish: Wish) -> Reading:
    """The way to read it. There are several only where several models stand side by side behind prefixes of their own."""
    best = _encoders_alone(chosen, wish) or chosen.ways[0]
    rivals = [
        way
        for way in chosen.ways
        if way.naming.layout is best.naming.layout
        and len(way.keys) >= WHOLE_ENOUGH * len(best.keys)
        and way.keys.keys().isdisjoint(best.keys)
    ]
    if rivals and best.naming.layout is Layout.DALLE:
        # OpenAI's encoder and decoder have the same names; the encoder is the codebook.
        encoders = [way for way in (best, *rivals) if way.prefix.endswith("encoder.")]
        best, rivals = (encoders[0], []) if len(encoders) == 1 else (best, rivals)
    if rivals:
        ways = " or ".join(f"--prefix {_prefix(way) or repr('')}" for way in (best, *rivals[:3]))
        raise InvalidInput(f"{content.called}: holds several whole models side by side; choose one: {ways}")
    return best


def _encoders_alone(chosen: _Candidate, wish: Wish) -> Reading | None:
    """The way to read as many weights as a class of encoders alone, where what it leaves over stops no conversion."""
    same = [way for way in chosen.ways if len(way.keys) == chosen.count and way.naming in ENCODERS_ALONE]
    return next((way for way in same if all(reason for _, reason in _beside(chosen, way, wish))), None)


def _prefix(way: Reading) -> str:
    """What stands before every key in the file, wrappers' names included; empty where names differ in more than that."""
    name, key = next(iter(way.keys.items()))
    rest = key.removeprefix(way.naming.adds)
    before = name.removesuffix(rest)
    exact = all(name == before + key.removeprefix(way.naming.adds) for name, key in way.keys.items())
    return before if exact else way.prefix


def _what_it_is(content: Content, candidates: Sequence[_Candidate], wanted: Sequence[Layout]) -> str:
    """What a file is that holds no model in a wanted layout."""
    best = max(candidates, key=lambda candidate: (candidate.count, len(candidate.state_dict.entries)))
    keys = list(map(name_of, best.state_dict.entries))
    if best.layout is Layout.UNKNOWN and (what := known_by_its_content(content.value) or known_by_its_keys(keys)):
        return what
    belongs = " or ".join(layout.value for layout in wanted if layout in _TOLD or len(wanted) == 1)
    return f"this is {best.layout.value}, where {belongs} belongs (its keys: {', '.join(map(shown, keys[:3]))}, ...)"


_TOLD = (Layout.ORIGINAL, Layout.TORCHMULTIMODAL, Layout.DALLE)


def _checkpoint(content: Content, chosen: _Candidate, way: Reading, notes: Sequence[str], wish: Wish) -> Checkpoint:
    """The chosen state dict as a checkpoint, its keys those of the layout, with all that is no weight of it told apart."""
    entries = {name_of(key): value for key, value in chosen.state_dict.entries.items()}
    if what := known_by_its_keys(entries):
        raise InvalidInput(f"{content.called}: {what}")
    if odd := next((name for name, value in entries.items() if is_tensor(value) and not name.isprintable()), None):
        raise InvalidInput(f"{content.called}: not a checkpoint: the key {shown(odd)} is no name of a weight")
    tensors: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name in entries:
        if (key := way.keys.get(name, "")) in names:
            raise NotFaithful(f"cannot be converted faithfully:\n  {names[key]} and {name} both stand for {key}")
        if key:
            tensors[key], names[key] = _as_weight(entries[name]), name
    _refuse_shards(content, entries, way.keys)
    out = dict(chosen.out)
    for name, reason in _beside(chosen, way, wish):
        if reason:
            out.setdefault(name, reason)
        elif name not in out:
            key = name.removeprefix(way.prefix)
            key = name if key in names else key
            tensors[key], names[key] = entries[name], name
    prefix = _prefix(way)
    same = {key: name for key, name in names.items() if name != prefix + key}
    wrapped = sum(name != prefix + key.removeprefix(way.naming.adds) for name, key in way.keys.items())
    others = {"prefix": prefix, "names": same, "wrapped": wrapped, "left_out": out, "notes": notes}
    found = content.checkpoint(chosen.state_dict, tensors, **others)
    return replace(found, tensors={key: _scalar(key, tensor, way.naming.layout) for key, tensor in found.tensors.items()})


def _scalar(key: str, tensor: TensorInFile, layout: Layout) -> TensorInFile:
    """The tensor; a scale of one dimension, for which FSDP asks, as the scalar that it holds."""
    is_scale = not isinstance(tensor, UnsupportedTensor) and tensor.shape == (1,) and WAYS[layout].to(key).target == LOGIT_SCALE
    return ReshapedTensor(tensor, ()) if is_scale and not isinstance(tensor, UnsupportedTensor) else tensor


def _as_weight(value: Any) -> Any:
    """What stands under a weight's key, if it is a tensor with elements; otherwise what it is instead."""
    if not is_tensor(value):
        return UnsupportedTensor(class_of(value), "object", "save the model with its weights as plain tensors")
    if _is_empty(value):
        return UnsupportedTensor(f"{value.dtype} {list(value.shape)}", "tensor without elements", "save the whole model")
    return value


def _refuse_shards(content: Content, entries: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Tensors of which a file holds one rank's part only, or none of it."""
    for name in keys:
        value = entries[name]
        kind = value.kind if isinstance(value, UnsupportedTensor) else class_of(value)
        if kind.endswith((".DTensor", ".ShardedTensor")):
            raise InvalidInput(f"{content.called}: {name} is a {kind}, of which this file holds one rank's shard; {FULL_STATE_DICT}")
    if 2 * sum(map(_is_empty, map(entries.get, keys))) > len(keys):
        raise InvalidInput(
            f"{content.called}: its tensors have no elements, as in a model's file of DeepSpeed's ZeRO stage 3; {ZERO_TO_FP32}"
        )


def _is_empty(value: Any) -> bool:
    return is_tensor(value) and not isinstance(value, UnsupportedTensor) and not prod(value.shape)


def _beside(chosen: _Candidate, way: Reading, wish: Wish) -> Iterator[tuple[str, str]]:
    """Each tensor that is no key of the model, and why it may be left out; empty where it may not.

    What stands inside of the model stops a conversion. Counters and what metrics keep do not, and nor does
    anything outside of a prefix that the user has named.
    """
    roots = {key.removeprefix(way.naming.adds).partition(".")[0] for key in way.keys.values()}
    tensors = {name: value for name, value in chosen.state_dict.tensors().items() if name not in way.keys}
    heads = {name.partition(".")[0] for name, value in tensors.items() if _is_of_a_layer(value)}
    for name, value in tensors.items():
        is_outside = not name.startswith(way.prefix)
        rest = name.removeprefix(way.prefix)
        if is_outside and wish.prefix is not None:
            yield name, f"outside of --prefix {wish.prefix}"
        elif name not in chosen.state_dict.entries:
            yield name, ""  # its key is no text
        elif rest.partition(".")[0] not in roots and _is_counter(value):
            yield name, "beside the model: a counter or a metric, no weight"
        elif is_outside and way.prefix and name.partition(".")[0] not in heads:
            yield name, f"beside the model, which stands behind {way.prefix}: no weights of a layer"
        else:
            yield name, ""


def _is_counter(value: TensorInFile) -> bool:
    """Whether it counts or measures: it has one element, or whole numbers."""
    if isinstance(value, UnsupportedTensor):
        return False
    return prod(value.shape) == 1 or (value.dtype.kind == "integer" and prod(value.shape) > 0)


def _is_of_a_layer(value: TensorInFile) -> bool:
    """Whether it can be the weight of a layer, which has two axes or more."""
    return isinstance(value, UnsupportedTensor) or (value.dtype.kind == "float" and len(value.shape) > 1) or not prod(value.shape)
