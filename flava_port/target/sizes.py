"""The sizes of a model, read from the shapes of its weights; and the config that they make, with defaults for the rest.

Keys are those of `FlavaForPreTraining`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt
from typing import Any

from ..errors import NotFaithful
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from .config import DEFAULTS, ENCODER_DEFAULTS, ENCODERS, section_of

HEAD_WIDTH = 64
# Heads of the published FLAVAs whose heads are wider, by hidden size: the larger models of torchmultimodal's scaling
# study (examples/flava/native).
_HEADS_BY_HIDDEN_SIZE = {1280: 16, 1408: 16, 1664: 16, 2048: 16}


@dataclass(frozen=True)
class Size:
    """A field of the config, and the weights that show it: each entry of ``evidence`` is a key and an axis of its shape."""

    section: str  # empty for the top level
    field: str
    evidence: tuple[tuple[str, int], ...]


def _encoder_sizes(section: str, model: str) -> list[Size]:
    layer = f"{model}.encoder.layer.0"
    last = "layernorm.weight", "layernorm.bias", "pooler.dense.weight", "pooler.dense.bias"
    as_wide = *(f"{model}.{name}" for name in last), f"{layer}.attention.output.dense.bias", f"{layer}.layernorm_before.weight"
    inner = (f"{layer}.intermediate.dense.weight", 0), (f"{layer}.intermediate.dense.bias", 0), (f"{layer}.output.dense.weight", 1)
    return [Size(section, "hidden_size", tuple((key, 0) for key in as_wide)), Size(section, "intermediate_size", inner)]


def _head_vocabulary(*heads: str) -> tuple[tuple[str, int], ...]:
    return tuple((f"{head}.{part}", 0) for head in heads for part in ("decoder.weight", "decoder.bias", "bias"))


_IMAGE, _TEXT, _MULTIMODAL = "flava.image_model", "flava.text_model", "flava.multimodal_model"

SIZES = (
    *_encoder_sizes("image_config", _IMAGE),
    *_encoder_sizes("text_config", _TEXT),
    *_encoder_sizes("multimodal_config", _MULTIMODAL),
    Size("image_config", "patch_size", ((f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", 2),)),
    Size("image_config", "num_channels", ((f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", 1),)),
    Size("image_config", "vocab_size", _head_vocabulary("mim_head", "mmm_image_head")),
    Size("text_config", "vocab_size", ((f"{_TEXT}.embeddings.word_embeddings.weight", 0), *_head_vocabulary("mlm_head", "mmm_text_head"))),
    Size("text_config", "type_vocab_size", ((f"{_TEXT}.embeddings.token_type_embeddings.weight", 0),)),
    Size("text_config", "max_position_embeddings", ((f"{_TEXT}.embeddings.position_embeddings.weight", 0),)),
    Size("", "hidden_size", (("itm_head.pooler.dense.weight", 0), ("itm_head.pooler.dense.bias", 0))),
    Size("", "projection_dim", tuple((f"flava.{m}_projection.{p}", 0) for m in ("text", "image") for p in ("weight", "bias"))),
    Size("image_codebook_config", "input_channels", (("image_codebook.blocks.input.weight", 1),)),
    Size("image_codebook_config", "hidden_size", (("image_codebook.blocks.input.weight", 0), ("image_codebook.blocks.input.bias", 0))),
    Size("image_codebook_config", "vocab_size", (("image_codebook.blocks.output.conv.weight", 0), ("image_codebook.blocks.output.conv.bias", 0))),
)  # fmt: skip

# Fields that count numbered modules: section, field, how a key shows the number, and what is added to the highest.
# Layers are numbered from 0, groups and blocks from 1.
COUNTS = (
    *((section, "num_hidden_layers", re.compile(rf"flava\.{name}_model\.encoder\.layer\.(\d{{1,4}})\."), 1) for section, name in ENCODERS.items()),
    ("image_codebook_config", "num_groups", re.compile(r"image_codebook\.blocks\.group_(\d{1,4})\."), 0),
    ("image_codebook_config", "num_blocks_per_group", re.compile(r"image_codebook\.blocks\.group_1\.group\.block_(\d{1,4})\."), 0),
)  # fmt: skip


@dataclass(frozen=True)
class SizeFound:
    """A field's value as the weights show it, and a key that shows it."""

    section: str
    field: str
    value: int
    key: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.field}" if self.section else self.field


def sizes_found(shapes: Mapping[str, tuple[int, ...]]) -> list[SizeFound]:
    """Every size that these shapes show. Where weights disagree, the majority decides.

    Raises:
        NotFaithful: a module's number is so far above the others that modules between them must be missing.
    """
    found = [size_found for size in SIZES if (size_found := _by_majority(size, shapes))]
    for section, field, pattern, offset in COUNTS:
        numbered = {int(match[1]): key for key in shapes if (match := pattern.match(key))}
        if numbered and max(numbered) > 2 * len(numbered) + 8:
            key = numbered[max(numbered)]
            number, count = max(numbered), len(numbered)
            raise NotFaithful(f"{key} is number {number} where the checkpoint has {count} in all; leave it out, or complete it")
        if numbered:
            found.append(SizeFound(section, field, max(numbered) + offset, numbered[max(numbered)]))
    return found + _image_size(shapes)


def _by_majority(size: Size, shapes: Mapping[str, tuple[int, ...]]) -> SizeFound | None:
    votes = [(shapes[key][axis], key) for key, axis in size.evidence if len(shapes.get(key, ())) > axis]
    if not votes:
        return None
    counts = Counter(vote for vote, _key in votes)
    value = max(counts, key=counts.__getitem__)
    return SizeFound(size.section, size.field, value, next(key for vote, key in votes if vote == value))


def _image_size(shapes: Mapping[str, tuple[int, ...]]) -> list[SizeFound]:
    """The side of a square image of square patches: the patches in a row, times a patch's side."""
    key = f"{_IMAGE}.embeddings.position_embeddings"
    projection = shapes.get(f"{_IMAGE}.embeddings.patch_embeddings.projection.weight", ())
    positions = shapes.get(key, ())
    if len(positions) != 3 or len(projection) != 4:
        return []
    *_, height, side = projection
    row = isqrt(positions[1])  # of n * n patches and the class token that is n
    is_square = height == side and row * row == positions[1] - 1
    return [SizeFound("image_config", "image_size", row * side, key)] if is_square else []


def config_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], semantics: Semantics = ORIGINAL_SEMANTICS
) -> tuple[dict[str, Any], list[str]]:
    """The config that the shapes show, in normal form, and a line for each assumption about what they do not show.

    What they do not show has FLAVA's defaults, or where ``semantics`` differs those of the code that made the checkpoint.

    Raises:
        NotFaithful: the image's patches make no square, so that its size cannot be read.
    """
    config = deepcopy(DEFAULTS)
    found = sizes_found(shapes)
    for size in found:
        section_of(config, size.section)[size.field] = size.value
    positions = shapes.get(f"{_IMAGE}.embeddings.position_embeddings", ())
    if len(positions) == 3 and not any(size.field == "image_size" for size in found):
        raise NotFaithful(
            f"the image encoder has {positions[1]} positions: less one for the CLS token they are no square of "
            "square patches, so the image size cannot be read from them; pass --config_path"
        )
    if not any(key.startswith("itm_head.") for key in shapes):
        config["hidden_size"] = config["multimodal_config"]["hidden_size"]
    if semantics.mask_token_is_optional:
        config["image_config"]["mask_token"] = f"{_IMAGE}.embeddings.mask_token" in shapes
    config["ce_ignore_index"] = semantics.ignore_index
    for section in ENCODERS:
        config[section]["num_attention_heads"] = _heads(config[section]["hidden_size"])
    return config, _assumptions(config)


def _assumptions(config: Mapping[str, Any]) -> list[str]:
    encoders = [(name, config[section]["num_attention_heads"], config[section]["hidden_size"]) for section, name in ENCODERS.items()]
    ignored = config["ce_ignore_index"]
    return [
        "attention heads: " + ", ".join(f"{heads} ({name}, {hidden // heads} wide)" for name, heads, hidden in encoders),
        f"activation: {ENCODER_DEFAULTS['hidden_act']}",
        f"layer norm epsilon: {ENCODER_DEFAULTS['layer_norm_eps']}",
        *([f"labels to ignore: {ignored}"] if ignored != DEFAULTS["ce_ignore_index"] else []),
    ]


def _heads(hidden_size: int) -> int:
    """The number of heads of the published model of this size; else as many as are 64 wide, or as near below 64 as divides the size."""
    if hidden_size in _HEADS_BY_HIDDEN_SIZE:
        return _HEADS_BY_HIDDEN_SIZE[hidden_size]
    return hidden_size // max(width for width in range(1, HEAD_WIDTH + 1) if hidden_size % width == 0)


def contradictions(config: dict, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, object, SizeFound]]:
    """The fields whose value is not what the shapes show: name, the config's value, and what the shapes show."""
    wrong: list[tuple[str, object, SizeFound]] = []
    for size in sizes_found(shapes):
        value = section_of(config, size.section)[size.field]
        if value != size.value and not (isinstance(value, list) and size.value in value):
            wrong.append((size.name, value, size))
    return wrong
