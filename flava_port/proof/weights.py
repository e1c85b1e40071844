"""The claims about what is in the files: keys, shapes, values, ties, config."""

import json
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..conversion.account import Made, Placed, account, counts_up, rename_all, shapes_of
from ..conversion.checkpoints import codebook_layout, original_layout
from ..conversion.folder import loading_dtype
from ..conversion.plan import fillable
from ..errors import InvalidInput
from ..files.dtypes import FLOAT32, FLOATS
from ..files.owned import RECORD
from ..files.tensors import StoredTensor, TensorSource, UnsupportedTensor
from ..reading.sources import Source, has_codebook, source_for
from ..rules.layouts import Layout, Semantics
from ..target.allowed import questionable_fields
from ..target.config import declared_dtypes, declared_fields, read_json
from ..target.keys import POSITION_IDS, TIED, lost_in
from ..target.known import nearest_shapes_for
from ..target.parts import CODEBOOK_PART, WHOLE, Part
from ..target.preprocessor import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, preprocessor_differences, takes_images
from ..target.sizes import config_from_shapes
from .certificate import Claim, Finding, MappedKey, NothingToJudge, Verdict
from .config_fields import config_differences, merged, unusual
from .rivals import judge_rivals
from .values import compare_values

if TYPE_CHECKING:
    from .twin import Twin


def recorded_keys(folder: Path, digests: Collection[str]) -> Set[str]:
    """The keys that the folder's record says were written, if it was converted from files with these sha256 digests.

    If the folder lacks one of them, it is missing. Nothing else in the record is believed.
    """
    try:
        record = json.loads((folder / RECORD).read_bytes())
        made_from = {source["sha256"] for source in record["sources"].values()}
        return set(record["tensors"]) if made_from and made_from <= set(digests) else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


@dataclass(frozen=True)
class Given:
    """What is known of both sides before anything is compared."""

    sources: Sequence[Source]
    part: Part  # that the folder is of
    made_by: Semantics
    folder: Path
    converted: Mapping[str, TensorSource | UnsupportedTensor]  # by the keys of `FlavaForPreTraining`
    config: dict  # the folder's, in normal form
    declared: dict | None  # the original's, where --config_path says it, or the original is a folder that has one
    recorded: Set[str]  # the keys that the folder's record says were written, as the folder has them


class WeightClaims:
    """The evidence of the claims about the files. Each public method that takes a claim judges it.

    `original` comes first: it finds what each converted key should hold, which all others use.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self.converted = {key: tensor for key, tensor in given.converted.items() if key != POSITION_IDS}
        self.renamed: Mapping[str, Placed] = {}
        self.placed: Mapping[str, Placed] = {}  # the original's tensors, by converted key
        self.digests: dict[str, str] = {}
        self.made: Mapping[str, Made] = {}  # what the original lacks and no output shows
        self.mapped: list[MappedKey] = []  # of the original, in the order of its files
        self.lost_in: list[str] = []  # the releases that lose a head's bias, which the folder holds under one key
        self.whole = False
        self._proven: dict[str, TensorSource] = {}  # the folder's tensors that have the original's values, by key

    @cached_property
    def twin(self) -> "Twin":
        """What shows how transformers loads the folder. It imports torch, which the claims about files do without."""
        from .twin import Twin

        return Twin(self.given.folder)

    def expected_config(self) -> dict:
        """Sizes from the original's shapes; the rest as declared, or FLAVA's."""
        from_shapes, _ = config_from_shapes(shapes_of(self.renamed), self.given.made_by)
        with_codebook = self.given.part is CODEBOOK_PART or (self.given.part is WHOLE and has_codebook(self.given.sources))
        return merged(from_shapes, self.given.declared) | {"init_codebook": with_codebook}

    def name_of(self, target: str) -> str:
        """The source's name for a converted key."""
        return source_for(target, self.given.sources).way.back(target)

    def originals(self) -> dict[str, tuple[str, TensorSource]]:
        """By converted key: the original's name and tensor.

        Raises:
            InvalidInput: one is a tensor that cannot be compared.
        """
        return {key: (placed.name_in_file, _comparable(placed)) for key, placed in self.placed.items()}

    def is_proven(self, key: str, tensor: TensorSource) -> bool:
        """Whether a tensor of the folder's files was found to have the values that the original has for the key."""
        proven = self._proven.get(key)
        return isinstance(proven, StoredTensor) and isinstance(tensor, StoredTensor) and tensor.is_same_memory_as(proven)

    def state_dicts(self) -> tuple[Mapping[str, TensorSource], Mapping[str, TensorSource] | None]:
        """What the original holds, in the original layout: the model's state dict, and the codebook's if there is one.

        Keys that the checkpoint may leave out (position_ids, second copies, one of a tied bias's two keys) are
        filled in. Keys of a checkpoint that already is in the original layout stay as they are.
        """
        tensors = _stored({key: placed.tensor for key, placed in self.placed.items()})
        model = original_layout(tensors) if self.whole else {}
        source = self.given.sources[0]
        own = _stored(source.checkpoint.tensors) if source.layout is Layout.ORIGINAL else {}
        return {**model, **own}, codebook_layout(tensors) or None

    def original(self, claim: Claim) -> None:
        """The original is whole: every key has its place, second copies are equal, position_ids count up."""
        renamed = rename_all(self.given.sources)
        self.placed = self.renamed = renamed.targets
        self.mapped = [MappedKey(placed.name_in_file, key) for key, placed in self.placed.items()]
        expected, part = self.expected_config(), self.given.part
        placement = account(renamed, nearest_shapes_for(expected, part), part, fillable(part, expected))
        self.placed, self.whole, self.made = dict(placement.filled), True, placement.made
        self.mapped = [MappedKey(placed.name_in_file, key) for key, placed in self.placed.items()]
        self.mapped += [MappedKey(dropped.placed.name_in_file, dropped=dropped.because) for dropped in placement.dropped]
        claim.settle(f"{len(self.placed)} keys placed, {len(placement.dropped)} dropped with proof")

    def keys(self, claim: Claim) -> None:
        """The folder has every key of the original and no other. One key of a tied pair is enough, unless both were written."""
        others = {**dict(TIED), **{other: one for one, other in TIED}}
        absent = [key for key in self.placed if key not in self.converted]
        written = {self.given.part.prefix + key for key in self.given.recorded}
        missing = [key for key in absent if key in written or others.get(key) not in self.converted]
        missing += [key for key in self.made if key not in self.converted]
        extra = [key for key in self.converted if key not in self.placed and key not in self.made]
        claim.findings += [Finding(key, self.name_of(key), "missing in the converted folder") for key in missing]
        claim.findings += [Finding(key, self.name_of(key), "the original has no such key") for key in extra]
        claim.settle(f"{len(self.converted)} keys on the converted side")

    def shapes_and_dtypes(self, claim: Claim) -> None:
        """Shapes are the original's; dtypes are float32 or the original's."""
        for key in self._common():
            ours, theirs = self.converted[key], _comparable(self.placed[key])
            if isinstance(ours, UnsupportedTensor):
                what = f"is {ours}"
            elif ours.shape != theirs.shape:
                what = f"shape {list(ours.shape)}, the original's is {list(theirs.shape)}"
            elif ours.dtype not in (FLOAT32, theirs.dtype) or ours.dtype not in FLOATS:
                what = f"{ours.dtype}; float32 or {theirs.dtype} belongs"
            else:
                continue
            claim.findings.append(Finding(key, self.placed[key].name_in_file, what))
        claim.settle("all equal")

    def values(self, claim: Claim) -> None:
        """Every value is the original's, bit for bit."""
        stored = _stored({key: self.converted[key] for key in self._common()})
        common = {key: tensor for key, tensor in stored.items() if tensor.dtype in FLOATS}
        originals = {key: (self.placed[key].name_in_file, _comparable(self.placed[key])) for key in common}
        claim.findings, self.digests = compare_values(common, originals)
        self._proven = {key: common[key] for key in common.keys() - {finding.key for finding in claim.findings}}
        position_ids = self.given.converted.get(POSITION_IDS)
        if position_ids is not None and not counts_up(position_ids, self.given.config["text_config"]["max_position_embeddings"]):
            claim.findings.append(
                Finding(POSITION_IDS, self.name_of(POSITION_IDS), "does not count 0, 1, 2, ...; releases up to 4.30.2 read it")
            )
        claim.settle(f"{len(common)} tensors equal, bit for bit" if common else "")
        if not common:
            claim.verdict = Verdict.NOT_PROVEN

    def ties(self, claim: Claim) -> None:
        """Each head's bias is one value under both its keys. Where one key is left out, some releases lose the bias."""
        pairs = [pair for pair in TIED if self.given.part.holds(pair[0])]
        if pairs and not self.given.config["tie_word_embeddings"]:
            claim.findings.append(Finding("tie_word_embeddings", "", "false in the config: transformers 5 loads the heads untied"))
        says_tied = "tie_word_embeddings" in declared_fields(self.given.folder)
        has = [(one in self.converted, other in self.converted) for one, other in pairs]
        held = ["bias" if has_bias else "decoder.bias" for has_bias, has_decoder_bias in has if has_bias != has_decoder_bias]
        lost = self.lost_in = sorted({release for key in held for release in lost_in(key, says_tied=says_tied)})
        note = f"; {_under_one_key(len(held))}" if held else ""
        if lost:
            note += f"; transformers {' and '.join(lost)} drops {'it' if len(held) == 1 else 'them'}; flava-port repair writes both keys"
        there = sum(map(any, has))
        claim.settle(f"{there} head biases{note}" if pairs else f"{self.given.part.model_class} has none")
        if there < len(pairs) and not claim.findings:
            claim.verdict = Verdict.NOT_PROVEN
            claim.summary += f"; {len(pairs) - there} are not in the folder"

    def config_fields(self, claim: Claim) -> None:
        """Every field is the original's or known to be harmless, and so is the dtype to load in."""
        expected, folder = self.expected_config(), self.given.folder
        for name, actual, wanted in config_differences(self.given.config, expected, self.given.part):
            claim.findings.append(Finding(name, "", f"{actual!r}, the original's is {wanted!r}{self._source_of_field(name)}"))
        held = loading_dtype(_stored(self.converted))
        for name, declared in declared_dtypes(folder):
            if declared != held:
                claim.findings.append(Finding(name, "", f"{declared!r}, the weights are {held}: transformers 5 loads what the config says"))
        fields = list(questionable_fields(read_json(folder)[0], held, self.given.part))
        claim.findings += [Finding(field.name, "", field.what) for field in fields if field.harmless]
        told = unusual(self.given.declared) if self.given.declared else []
        claim.settle(("as the given config says: " + ", ".join(told)) if told else "FLAVA's own, for what no shape tells")
        if unknown := [Finding(field.name, "", field.what) for field in fields if not field.harmless]:
            claim.verdict = claim.verdict if claim.findings else Verdict.NOT_PROVEN
            claim.findings += unknown
            claim.summary = f"{len(claim.findings)} found"

    def _source_of_field(self, name: str) -> str:
        told = name.rpartition(".")[2] in ("num_attention_heads", "hidden_act", "layer_norm_eps")
        assumed = told and not self.given.declared
        return ", assumed as no shape tells it; --config_path takes the original's config" if assumed else ""

    def processor_config(self, claim: Claim) -> None:
        """What the folder says of its image processing is FLAVA's, for images of the size that the model takes."""
        folder = self.given.folder
        if not takes_images(self.given.part):
            claim.settle(f"{self.given.part.model_class} takes no images")
            return
        files = [name for name in (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG) if (folder / name).exists()]
        if not files:
            raise NothingToJudge(f"there is no {PREPROCESSOR_CONFIG} in the folder")
        for name, actual, wanted in preprocessor_differences(folder, self.expected_config(), self.given.part):
            claim.findings.append(Finding(name, "", f"{actual!r}, where {wanted!r} belongs; images would reach the model otherwise"))
        claim.settle(f"every field of {' and '.join(files)}")

    def other_weights(self, claim: Claim) -> None:
        """No other file of the folder could be loaded in place of what was compared, and be another model."""
        judge_rivals(self.given.folder, self.given.part.prefix, self.originals(), claim)

    def _common(self) -> list[str]:
        return [key for key in self.placed if key in self.converted]


def _stored(tensors: Mapping[str, TensorSource | UnsupportedTensor]) -> dict[str, TensorSource]:
    """Those that can be read: sparse and quantised tensors are left out."""
    return {key: tensor for key, tensor in tensors.items() if not isinstance(tensor, UnsupportedTensor)}


def _comparable(placed: Placed) -> TensorSource:
    if isinstance(placed.tensor, UnsupportedTensor):
        raise InvalidInput(f"{placed.name_in_file} is {placed.tensor} in the original and cannot be compared")
    return placed.tensor


def _under_one_key(count: int) -> str:
    return "1 bias is stored under one of its two keys" if count == 1 else f"{count} biases are stored under one of their two keys"
