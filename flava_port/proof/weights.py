"""The claims about what is in the files: keys, shapes, values, ties, config."""

import json
from collections.abc import Collection, Mapping, Set
from pathlib import Path

from ..conversion.account import Placed, account, counts_up, rename_all, shapes_of
from ..conversion.checkpoints import codebook_layout, original_layout
from ..conversion.folder import loading_dtype
from ..conversion.sources import Source, has_codebook, source_for
from ..errors import FlavaPortError
from ..files.dtypes import FLOAT32, FLOATS
from ..files.model_folder import RECORD
from ..files.tensors import StoredTensor, TensorSource, UnsupportedTensor
from ..rules.layouts import Layout, Semantics
from ..target.config import declared_dtypes, declared_fields, normal_form
from ..target.installed import shapes_for
from ..target.keys import POSITION_IDS, TIED, lost_in
from ..target.parts import WHOLE, Part
from ..target.preprocessor import preprocessor_differences
from ..target.sizes import config_from_shapes
from .certificate import Claim, Finding, Verdict
from .config_fields import config_differences, merged, unusual
from .values import compare_values


def read_record(folder: Path, digests: Collection[str]) -> dict | None:
    """What `convert` recorded in the folder, if it was converted from the files with these sha256 digests."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        same_files = all(source["sha256"] in digests for source in record["sources"].values())
        return {"config": normal_form(record["config"]), "keys": set(record["tensors"])} if same_files else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FlavaPortError):
        return None


class WeightClaims:
    """The claims about what is in the files; each method checks one."""

    def __init__(
        self,
        sources: list[Source],
        part: Part,
        made_by: Semantics,
        folder: Path,
        converted: Mapping[str, StoredTensor | UnsupportedTensor],
        config: dict,
        declared: dict | None,
        recorded: Set[str],
    ):
        self.sources, self.part, self.made_by = sources, part, made_by
        self.folder, self.config, self.declared, self.recorded = folder, config, declared, recorded
        self.converted = {key: tensor for key, tensor in converted.items() if key != POSITION_IDS}
        self.position_ids = converted.get(POSITION_IDS)
        self.renamed: dict[str, Placed] = {}
        self.placed: dict[str, Placed] = {}
        self.digests: dict[str, str] = {}
        self.whole = False

    def expected_config(self) -> dict:
        """Sizes from the original's shapes; the rest as declared, or FLAVA's."""
        from_shapes, _ = config_from_shapes(shapes_of(self.renamed), self.made_by)
        with_codebook = self.part is WHOLE and has_codebook(self.sources)
        return merged(from_shapes, self.declared) | {"init_codebook": with_codebook}

    def name_of(self, target: str) -> str:
        """The source's name for a converted key."""
        return source_for(target, self.sources).way.back(target)

    def state_dicts(self) -> tuple[Mapping[str, TensorSource], Mapping[str, TensorSource] | None]:
        """The original's layout of what was placed: the model's state dict, and the codebook's where there is one.

        An original's own keys stand as they are; of what it may leave out (position_ids, second copies, one key of
        a tied bias) it gets what was proven to be the same.
        """
        tensors = {key: placed.tensor for key, placed in self.placed.items()}
        model = original_layout(tensors) if self.whole else {}
        own = self.sources[0].checkpoint.tensors if self.sources[0].layout is Layout.ORIGINAL else {}
        return {**model, **own}, codebook_layout(tensors) or None

    def original(self, claim: Claim) -> None:
        """The original is whole: every key placed, second copies equal, position_ids counting up."""
        renamed = rename_all(self.sources)
        self.placed = self.renamed = renamed.targets
        placement = account(renamed, shapes_for(self.expected_config(), self.part), self.part)
        self.placed, self.whole = dict(placement.filled), True
        claim.verdict = Verdict.PROVEN
        claim.summary = f"{len(self.placed)} keys placed, {len(placement.dropped)} dropped with proof"

    def keys(self, claim: Claim) -> None:
        """The converted side has each key of the original and no other; one of a tied pair is enough, unless both were written."""
        twins = {**dict(TIED), **{other: one for one, other in TIED}}
        absent = [key for key in self.placed if key not in self.converted]
        missing = [key for key in absent if key in self.recorded or twins.get(key) not in self.converted]
        extra = [key for key in self.converted if key not in self.placed]
        claim.findings += [Finding(key, self.placed[key].name_in_file, "missing in the converted folder") for key in missing]
        claim.findings += [Finding(key, self.name_of(key), "the original has no such key") for key in extra]
        _settle(claim, f"{len(self.converted)} keys on the converted side")

    def shapes_and_dtypes(self, claim: Claim) -> None:
        for key in self._common():
            ours, theirs = self.converted[key], self.placed[key].tensor
            if isinstance(ours, UnsupportedTensor):
                claim.findings.append(Finding(key, self.placed[key].name_in_file, f"is a {ours.kind} tensor"))
            elif ours.shape != theirs.shape:
                claim.findings.append(
                    Finding(key, self.placed[key].name_in_file, f"shape {list(ours.shape)}, the original's is {list(theirs.shape)}")
                )
            elif ours.dtype not in (FLOAT32, theirs.dtype) or ours.dtype not in FLOATS:
                claim.findings.append(Finding(key, self.placed[key].name_in_file, f"{ours.dtype}; float32 or {theirs.dtype} belongs"))
        _settle(claim, "all equal")

    def values(self, claim: Claim) -> None:
        """Every value, bit for bit."""
        common: dict[str, TensorSource] = {
            key: tensor for key in self._common() if isinstance(tensor := self.converted[key], StoredTensor) and tensor.dtype in FLOATS
        }
        originals = {key: (self.placed[key].name_in_file, self.placed[key].tensor) for key in common}
        claim.findings, self.digests = compare_values(common, originals)
        if self.position_ids is not None and not counts_up(self.position_ids, self.config["text_config"]["max_position_embeddings"]):
            claim.findings.append(
                Finding(POSITION_IDS, self.name_of(POSITION_IDS), "does not count 0, 1, 2, ...; releases up to 4.30.2 read it")
            )
        _settle(claim, f"{len(common)} tensors equal, bit for bit" if common else "")
        if not common:
            claim.verdict = Verdict.NOT_PROVEN

    def ties(self, claim: Claim) -> None:
        """Each head's bias is one value under both keys; where one is left out, some releases lose it."""
        alone = [pair for pair in TIED if sum(key in self.converted for key in pair) == 1]
        if not self.config["tie_word_embeddings"]:
            claim.findings.append(Finding("tie_word_embeddings", "", "false in the config: transformers 5 loads the heads untied"))
        says_tied = "tie_word_embeddings" in declared_fields(self.folder)
        lost = sorted(
            {
                release
                for _, other in alone
                for release in lost_in("decoder.bias" if other in self.converted else "bias", says_tied=says_tied)
            }
        )
        note = f"; {len(alone)} of them under one key only" if alone else ""
        note += f", which transformers {' and '.join(lost)} lose: flava-port repair writes both" if lost else ""
        _settle(claim, f"{len(TIED)} head biases{note}")

    def config_fields(self, claim: Claim) -> None:
        """Every field that changes what is computed, the dtype to load in, and what we wrote of the pixels."""
        expected = self.expected_config()
        for name, actual, wanted in config_differences(self.config, expected):
            claim.findings.append(Finding(name, "", f"{actual!r}, the original's is {wanted!r}{self._source_of_field(name)}"))
        held = loading_dtype({key: tensor for key, tensor in self.converted.items() if isinstance(tensor, StoredTensor)})
        for name, declared in declared_dtypes(self.folder):
            if declared != held:
                claim.findings.append(Finding(name, "", f"{declared!r}, the weights are {held}: transformers 5 loads what the config says"))
        for name, actual, wanted in preprocessor_differences(self.folder, expected) if self.recorded else ():
            claim.findings.append(Finding(name, "", f"{actual!r}, {wanted!r} was written; images would reach the model otherwise"))
        told = unusual(self.declared) if self.declared else []
        _settle(claim, ("as declared: " + ", ".join(told)) if told else "FLAVA's own, for what no shape tells")

    def _source_of_field(self, name: str) -> str:
        assumed = name.endswith("num_attention_heads") and not self.declared
        return ", assumed as no shape tells it; --config_path takes the original's config" if assumed else ""

    def _common(self) -> list[str]:
        return [key for key in self.placed if key in self.converted]


def _settle(claim: Claim, summary: str) -> None:
    claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.PROVEN
    claim.summary = f"{len(claim.findings)} found" if claim.findings else summary
