"""The claim that transformers loads the folder as it loads one that was converted right, in every class.

Both are observed on twins; see `flava_port.proof.twin`. The values themselves are compared by other claims.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..conversion.folder import loading_dtype
from ..files.dtypes import DTYPES
from ..files.model_folder import weights_file
from ..files.owned import RECORD
from ..files.shards import INDEX, WEIGHTS, files_of_weights
from ..files.tensors import UnsupportedTensor
from ..rules.tables import source_name
from ..target.allowed import DTYPE_FIELDS, HARMLESS, MEANINGLESS
from ..target.config import config_json
from ..target.installed import version
from ..target.keys import POSITION_IDS, TIED, TIED_KEYS, current_name, tied
from ..target.parts import PARTS, Part
from ..target.preprocessor import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from ..target.tokenizer import TOKENIZER_FILES
from ..text import count_of, few
from .certificate import Claim, Finding, Verdict
from .config_fields import INERT, unused_fields
from .twin import Contents, LoadedAs, Origin, load_twin
from .weights import WeightClaims


def judge_as_loaded(weights: WeightClaims, claim: Claim) -> None:
    """Each class reads every parameter from where it stands, in the right dtype, with the original's config and settings."""
    part, right = weights.given.part, _converted_right(weights)
    is_right = _is_as(weights.twin.contents, _in_files_of(weights.twin.contents, _contents_of(right)))
    compared = weights_file(weights.given.folder)
    files = {file.name for file in files_of_weights(compared)}
    names = []
    for loaded_part in (part, *_parts_in(part)):
        try:
            # Of equal files the loader makes equal models, so that one of them need not be loaded twice.
            wanted = weights.twin.loaded_as(loaded_part.model_class) if is_right else _loaded_right(right, loaded_part.model_class)
        except Exception as error:  # each release has types of its own for this
            if loaded_part is part:
                why = f"{type(error).__name__}: {error}"
                claim.summary = f"transformers {version('transformers')} loads no {part.model_class} that was converted right: {why}"
                return
            continue
        if not any(wanted.keys.values()):  # of FlavaModel's folder an encoder's class reads nothing
            continue
        found = weights.twin.loaded_as(loaded_part.model_class)
        claim.findings += _Comparison(found, wanted, part.prefix, files, loaded_part).findings()
        names.append(loaded_part.model_class)
    claim.settle(f"transformers {version('transformers')} makes of the folder what it should: {', '.join(names)}")
    if not names:
        claim.verdict = Verdict.NOT_PROVEN


def _parts_in(part: Part) -> Iterator[Part]:
    """The parts whose classes load from a folder of this one too. `FlavaImageCodebook` loads from its own alone, in any release."""
    if not part.section:
        yield from (inner for inner in PARTS.values() if inner.model_class != part.model_class)


def _converted_right(weights: WeightClaims) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The config.json of a right conversion, and the dtype of each key: those of the folder, where it has the key."""
    part, expected = weights.given.part, weights.expected_config()
    held = {key: tensor for key, tensor in weights.converted.items() if not isinstance(tensor, UnsupportedTensor)}
    dtypes = {
        key: held.get(key) or next((held[other] for pair in TIED if key in pair for other in pair if other in held), None)
        for key in (*weights.placed, *weights.made)
    }
    config = json.dumps(config_json(expected, loading_dtype(held), part))
    return config, tuple((key.removeprefix(part.prefix), str(tensor.dtype) if tensor else "float32") for key, tensor in dtypes.items())


@lru_cache(maxsize=16)
def _loaded_right(right: tuple[str, tuple[tuple[str, str], ...]], model_class: str) -> LoadedAs:
    """What transformers makes of a right conversion."""
    return load_twin(_contents_of(right), model_class)


def _contents_of(right: tuple[str, tuple[tuple[str, str], ...]]) -> Contents:
    config, dtypes = right
    return Contents({"config.json": config.encode()}, {WEIGHTS: {key: DTYPES[name] for key, name in dtypes}})


def _in_files_of(folder: Contents, right: Contents) -> Contents:
    """The right conversion, in several files where the folder's weights are: each key where the folder has it, and an index of that."""
    if INDEX not in folder.texts or WEIGHTS in folder.weights:  # which is one file, and loaders read no index beside it
        return right
    ((_, dtypes),) = right.weights.items()
    weights = {file: {key: dtypes[key] for key in keys if key in dtypes} for file, keys in folder.weights.items()}
    if sorted(key for keys in weights.values() for key in keys) != sorted(dtypes):
        return right
    index = {"metadata": {}, "weight_map": {key: file for file, keys in weights.items() for key in keys}}
    return Contents({**right.texts, INDEX: json.dumps(index).encode()}, weights)


# What a conversion writes besides, which other claims judge.
_BESIDE = {RECORD, PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, *TOKENIZER_FILES}


def _is_as(folder: Contents, right: Contents) -> bool:
    """Whether a loader finds in the folder what it finds in a right one: the same config, keys, dtypes and files."""
    texts = {name: text for name, text in folder.texts.items() if name not in _BESIDE}
    return (
        folder.weights == right.weights
        and texts.keys() == right.texts.keys()
        and all(_canonical(name, text) == _canonical(name, right.texts[name]) for name, text in texts.items())
    )


def _canonical(name: str, text: bytes) -> str:
    """JSON in one form, in which true is not 1 and 1 is not 1.0. How many bytes or parameters an index counts is left out."""
    found = json.loads(text)
    if name == INDEX and isinstance(found.get("metadata"), dict):
        found["metadata"] = {field: value for field, value in found["metadata"].items() if field not in ("total_size", "total_parameters")}
    return json.dumps(found, sort_keys=True)


class _Comparison:
    """What a class makes of the folder, against what it makes of a right one."""

    def __init__(self, found: LoadedAs, wanted: LoadedAs, prefix: str, files: set[str], part: Part) -> None:
        self.found, self.wanted, self.prefix, self.files, self.part = found, wanted, prefix, files, part

    def findings(self) -> list[Finding]:
        config = list(self._of_config())
        # What a field of the config changes in every module would hide the field itself.
        return [*config, *self._of_keys(), *self._of_parameters(), *(() if config else self._of_settings())]

    def _finding(self, name: str, what: str, source: str = "") -> Finding:
        return Finding(f"{self.found.model_class}: {name}", source, what)

    def _of_config(self) -> Iterator[Finding]:
        found, wanted = dict(_fields(self.found.config)), dict(_fields(self.wanted.config))
        has_codebook = bool(found.get("init_codebook") or wanted.get("init_codebook"))
        unused = frozenset() if self.part.section else unused_fields(self.part, has_codebook=has_codebook)
        for name in sorted(found.keys() | wanted.keys()):
            if name.partition(".")[0] in unused:
                continue
            actual, expected = found.get(name), wanted.get(name)
            if name != "layer_norm_eps" and not _are_alike(name.rpartition(".")[2], actual, expected):
                yield self._finding(f"config.{name}", f"{actual!r} once it is loaded, where {expected!r} belongs")

    def _of_keys(self) -> Iterator[Finding]:
        for key, wanted in self.wanted.keys.items():
            source = source_name(self._whole_key(key))
            origin = self.found.keys.get(key)
            if key not in self.found.keys:
                yield self._finding(key, "is no part of the model that is loaded", source)
            elif origin is None and wanted is not None:
                yield self._finding(key, "comes from nothing in the folder: it is random, or a default", source)
            elif origin is not None and wanted is not None and self._name(origin) != self._name(wanted):
                yield self._finding(key, f"comes from {origin.key} in {origin.file}", source)
            elif origin is not None and origin.file not in self.files:
                yield self._finding(key, f"comes from {origin.file}, which was not compared", source)
        for key in self.found.keys.keys() - self.wanted.keys.keys():
            if not key.endswith(POSITION_IDS):
                yield self._finding(key, "is a parameter that the original's model does not have")

    def _whole_key(self, key: str) -> str:
        return self.part.prefix + key

    def _name(self, origin: Origin) -> str:
        """The key of `FlavaForPreTraining` that it stands for; one of the two for a tied bias."""
        return tied(self.prefix + current_name(origin.key))

    def _of_parameters(self) -> Iterator[Finding]:
        for key, wanted in self.wanted.dtypes.items():
            if (dtype := self.found.dtypes.get(key, wanted)) != wanted:
                yield self._finding(key, f"is loaded as {dtype}, where {wanted} belongs", source_name(self._whole_key(key)))
        for key in sorted(self.found.frozen ^ self.wanted.frozen):
            yield self._finding(key, "is left out of training" if key in self.found.frozen else "is trained, where it should stay as it is")
        # The heads' biases are tied or not by which of their keys the file has; they are equal in any case.
        for key in sorted((self.found.ties.keys() | self.wanted.ties.keys()) - TIED_KEYS):
            if self.found.ties.get(key) != self.wanted.ties.get(key):
                yield self._finding(key, "is tied to another parameter" if key in self.found.ties else "is tied no longer")

    def _of_settings(self) -> Iterator[Finding]:
        """Settings of modules, those together that are called the same and differ in the same way."""
        different: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for name in self.found.settings.keys() | self.wanted.settings.keys():
            actual, expected = (side.settings.get(name) for side in (self.found, self.wanted))
            if type(actual) is not type(expected) or actual != expected:
                module, _, attribute = name.rpartition(".")
                different[attribute, repr(actual), repr(expected)].append(module)
        for (attribute, actual, expected), modules in sorted(different.items()):
            where = ", ".join(few(sorted(modules), 2))
            yield self._finding(attribute, f"{actual}, where {expected} belongs, in {count_of(len(modules), 'module')}: {where}")


def _fields(config: Any, before: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a config object as its model reads it, sections' as ``section.field``."""
    for name in vars(config):
        if name.startswith("_") or name in DTYPE_FIELDS:
            continue
        value = getattr(config, name)
        if hasattr(value, "to_dict"):
            yield from _fields(value, f"{before}{name}.")
        else:
            yield before + name, value


def _are_alike(name: str, actual: object, expected: object) -> bool:
    if name in INERT or (name in MEANINGLESS and name != "pad_token_id") or actual == expected:
        return True
    harmless = (*HARMLESS.get(name, ()), None)
    return actual in harmless and expected in harmless and name in HARMLESS
