"""Layout epochs: what each release of transformers expects of FLAVA, recorded as data.

A release belongs to an epoch by content: keys, shapes as functions of the config, dtypes, ties,
persistent buffers, config defaults and layer norm epsilons. The snapshots lie in ``layouts/``,
one file each, with the releases each was seen in; `flava_port.recorder` makes them. Nothing here
needs torch or transformers, so that a layout that is known costs milliseconds.

A key may hold numbers: ``layer.{0, image_config.num_hidden_layers}.output`` stands for one key per
number of that Python ``range``. A shape is a list of expressions over config fields, and may end in
``if FIELD``: then the key is there only where that field is true.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from operator import add, floordiv, mul
from pathlib import Path

from ..errors import InvalidInput
from .keys import POSITION_IDS

FOLDER = Path(__file__).parent / "layouts"
_CODEBOOK = "image_codebook."

_NUMBERS = re.compile(r"\{([^}]*)\}")
_RELEASE = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True)
class Schema:
    """What a release expects; see the module's text for keys and shapes.

    ``dtypes`` has what is not float32, ``ties`` keys that are one parameter (``a = b``). ``epsilons`` has each layer norm's, as the config field it is
    taken from, or as a number. The sub-configs stand in ``defaults`` under the names that hold them.
    """

    shapes: Mapping[str, str]
    dtypes: Mapping[str, str]
    buffers: Sequence[str]
    ties: Sequence[str]
    epsilons: Mapping[str, str]
    defaults: Mapping


@dataclass(frozen=True)
class Epoch:
    """A layout and the releases it was seen in, oldest first; those between two of them are its own too."""

    releases: tuple[str, ...]
    snapshot: Schema
    path: Path | None = None

    def covers(self, release: str) -> bool:
        """Neither what is older or newer than all that was seen, nor what is no release (5.24.0.dev0)."""
        seen = [_order(one) for one in (*self.releases, release) if _RELEASE.fullmatch(one)]
        return bool(_RELEASE.fullmatch(release)) and len(seen) > 1 and seen[0] <= seen[-1] <= seen[-2]

    def with_release(self, release: str) -> "Epoch":
        return replace(self, releases=tuple(sorted({*self.releases, release}, key=_order)))

    def __str__(self) -> str:
        return " to ".join(dict.fromkeys((self.releases[0], self.releases[-1])))


def _order(release: str) -> tuple[int, ...]:
    """Sorts releases; 5.24.0.dev0 stands with 5.24.0."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])


# ----------------------------------------------------------------------------------------- files


def read_epoch(path: Path) -> Epoch:
    """A snapshot file.

    Raises:
        InvalidInput: it cannot be read, or is no snapshot.
    """
    try:
        content = json.loads(path.read_bytes())
        snapshot = Schema(**{field.name: content[field.name] for field in fields(Schema)})
        return Epoch(tuple(content["releases"]), snapshot, path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: no layout snapshot ({type(error).__name__}: {error})") from None


def epoch_text(epoch: Epoch) -> str:
    """The content of a snapshot file; one key, one line."""
    return json.dumps({"releases": epoch.releases, **asdict(epoch.snapshot)}, indent=1) + "\n"


@cache
def known_epochs() -> tuple[Epoch, ...]:
    """The committed snapshots, oldest first."""
    return tuple(sorted((read_epoch(path) for path in FOLDER.glob("*.json")), key=lambda epoch: _order(epoch.releases[0])))


def epoch_of(release: str) -> Epoch | None:
    """The epoch of a release of transformers, by its number; None where it was not seen in any."""
    return next((epoch for epoch in known_epochs() if epoch.covers(release)), None)


# ---------------------------------------------------------------------------------------- shapes


def shapes(snapshot: Schema, config: Mapping) -> dict[str, tuple[int, ...]]:
    """Every key and its shape for a whole config; fields that it leaves out take the release's defaults.

    Raises:
        InvalidInput: a field that a shape needs is missing, or no number.
    """
    config = _completed(snapshot.defaults, config)
    found: dict[str, tuple[int, ...]] = {}
    for template, shape in snapshot.shapes.items():
        dimensions, _, condition = shape.partition(" if ")
        if not condition or _value(condition, config):
            value = _value(f"({dimensions},)" if dimensions else "()", config)
            found.update((key, value) for key in _numbered(template, config))
    return found


def known_shapes(config: Mapping, release: str) -> dict[str, tuple[int, ...]] | None:
    """What that release's `FlavaForPreTraining` expects, position_ids left out: found without transformers.

    None where only transformers can tell: for a release in no known epoch, and for a config with
    fields that its epoch does not know, or with values that a release may refuse.
    """
    epoch = epoch_of(release)
    if epoch is None or not _is_plain(epoch.snapshot.defaults, config):
        return None
    return {key: shape for key, shape in shapes(epoch.snapshot, config).items() if key != POSITION_IDS}


def _completed(defaults: Mapping, config: Mapping) -> dict:
    """The config with the defaults that it leaves out, one level deep."""
    sections = {name: {**value, **config.get(name, {})} for name, value in defaults.items() if isinstance(value, Mapping)}
    return {**defaults, **config, **sections}


def _numbered(template: str, config: Mapping) -> Iterator[str]:
    """The keys that a template stands for."""
    match = _NUMBERS.search(template)
    if match is None:
        yield template
        return
    for number in range(*_value(f"({match[1]})", config)):
        yield template[: match.start()] + str(number) + template[match.end() :]


_OPERATORS = {ast.Add: add, ast.Mult: mul, ast.FloorDiv: floordiv}


def _value(expression: str, config: Mapping):
    """The value of an expression: whole numbers, fields, ``+``, ``*``, ``//``, tuples, and one side of a size."""
    return _evaluate(_parsed(expression), config, expression)


@cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _evaluate(node: ast.expr, config: Mapping, expression: str):
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name) if name in config:
            return config[name]
        case ast.Attribute(value=ast.Name(id=section), attr=name) if name in config.get(section, ()):
            return config[section][name]
        case ast.Subscript(value=inner, slice=ast.Constant(value=side)):
            size = _evaluate(inner, config, expression)
            return size[side] if isinstance(size, list | tuple) else size  # a square's side is given once
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](_evaluate(left, config, expression), _evaluate(right, config, expression))
        case ast.Tuple(elts=parts):
            return tuple(_evaluate(part, config, expression) for part in parts)
    raise InvalidInput(f"layout snapshot: {ast.unparse(node)} in {expression!r} is no number, field, or sum of them")


# ------------------------------------------------------------------------------- what is plain

# Activations that every release has, and how a config's file says where it comes from: neither matters to a shape.
_ACTIVATIONS = frozenset(("gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh", "sigmoid", "linear"))
_ABOUT_THE_FILE = frozenset(("architectures", "transformers_version", "model_type"))
_POSITIVE = re.compile(r".*_size|.*_dim|num_.*|.*_channels|max_position_embeddings")


def _is_plain(defaults: Mapping, config: Mapping) -> bool:
    """No unknown field, every value of its default's type and in its range: no release refuses such a config."""
    sections = {name: value for name, value in defaults.items() if isinstance(value, Mapping)}
    if not all(isinstance(config.get(name, {}), Mapping) for name in sections):
        return False
    whole = _completed(defaults, config)
    pairs = [(defaults, {name: value for name, value in whole.items() if name not in sections})]
    pairs += [(default, whole[name]) for name, default in sections.items()]
    return all(_is_plain_section(default, values) for default, values in pairs) and _fits(whole)


def _is_plain_section(defaults: Mapping, values: Mapping) -> bool:
    return all(
        name in _ABOUT_THE_FILE or (name in defaults and _is_plain_value(name, value, defaults[name])) for name, value in values.items()
    )


def _is_plain_value(name: str, value: object, default: object) -> bool:
    if name in ("image_size", "patch_size") and isinstance(value, list):
        return len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    if name == "hidden_act":
        return value in _ACTIVATIONS
    if name == "position_embedding_type":
        return value == default
    return type(value) is type(default) and (not is_size(name) or value > 0)


def is_size(field: str) -> bool:
    """The field counts something, so that it is above zero."""
    return bool(_POSITIVE.fullmatch(field))


def _fits(config: Mapping) -> bool:
    """Heads divide the width, the padding token is a word, and a patch fits the image."""
    encoders = (config["image_config"], config["text_config"], config["multimodal_config"])
    image, text = config["image_config"], config["text_config"]
    return (
        all(encoder["hidden_size"] % encoder["num_attention_heads"] == 0 for encoder in encoders)
        and 0 <= text["pad_token_id"] < text["vocab_size"]
        and all(_side(image["patch_size"], axis) <= _side(image["image_size"], axis) for axis in (0, 1))
    )


def _side(size: int | Sequence[int], axis: int) -> int:
    return size[axis] if isinstance(size, list) else size


# ----------------------------------------------------------------------------------- differences


def schema_differences(known: Schema, observed: Schema) -> list[str]:
    """Every way in which the second layout is not the first, a line each; none for the same epoch."""
    return [
        *_of_keys(known, observed),
        *_of_values("dtype", known.dtypes, observed.dtypes, "float32", among=known.shapes.keys() & observed.shapes.keys()),
        *(f"removed tie {tie}" for tie in known.ties if tie not in observed.ties),
        *(f"added tie {tie}" for tie in observed.ties if tie not in known.ties),
        *_of_values("epsilon", known.epsilons, observed.epsilons, "none", among=known.epsilons.keys() & observed.epsilons.keys()),
        *_of_values("default", flat(known.defaults), flat(observed.defaults), "absent"),
    ]


def nearest(observed: Schema) -> tuple[Epoch, list[str]]:
    """The known epoch with the fewest differences (the newest of several), and these."""
    found = [(epoch, schema_differences(epoch.snapshot, observed)) for epoch in known_epochs()]
    if not found:
        raise InvalidInput(f"{FOLDER}: no layout snapshot")
    return min(reversed(found), key=lambda pair: len(pair[1]))


def _of_keys(known: Schema, observed: Schema) -> Iterator[str]:
    removed = [key for key in known.shapes if key not in observed.shapes]
    added = [key for key in observed.shapes if key not in known.shapes]
    renamed = renamings(removed, added, known.shapes, observed.shapes)
    for old, new in renamed.items():
        yield f"renamed {old} -> {new}"
    for key in removed:
        if key not in renamed:
            yield f"removed {_kind(key, known)}{key} [{known.shapes[key]}]"
    for key in added:
        if key not in renamed.values():
            yield f"added {_kind(key, observed)}{key} [{observed.shapes[key]}]"
    for key, shape in known.shapes.items():
        if key in observed.shapes:
            if observed.shapes[key] != shape:
                yield f"shape of {key}: [{shape}] -> [{observed.shapes[key]}]"
            if (key in known.buffers) != (key in observed.buffers):
                yield f"{key}: {_kind(key, known) or 'parameter '}-> {_kind(key, observed) or 'parameter'}".rstrip()


def renamings(removed: Sequence[str], added: Sequence[str], old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Removed keys with the added key that took their place: the same shape and as many names alike as possible."""
    left, found = list(added), {}
    for key in removed:
        fitting = [other for other in left if old[key] == new[other] and _alike(key, other)]
        if fitting:
            found[key] = max(fitting, key=lambda other: _alike(key, other))
            left.remove(found[key])
    return found


def _alike(key: str, other: str) -> int:
    """How many names two keys have in common, from both ends; 0 where no more than the last is."""
    first, second = key.split("."), other.split(".")
    same_front = next((n for n, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    same_back = next((n for n, (a, b) in enumerate(zip(first[::-1], second[::-1])) if a != b), 0)
    return same_front + same_back if same_front else 0


def _kind(key: str, snapshot: Schema) -> str:
    return "persistent buffer " if key in snapshot.buffers else ""


def _of_values(what: str, old: Mapping, new: Mapping, missing: str, among: Iterable[str] | None = None) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, missing), new.get(name, missing)
        if before != after and (among is None or name in among):
            yield f"{what} of {name}: {before} -> {after}"


def flat(defaults: Mapping) -> dict[str, object]:
    """``section.field`` for every field of a config."""
    found: dict[str, object] = {}
    for name, value in defaults.items():
        found.update({f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value})
    return found
