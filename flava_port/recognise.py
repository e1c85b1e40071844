"""Which layout a state dict is in, told by its keys alone."""

import re
from collections import Counter
from collections.abc import Iterable
from enum import Enum


class Kind(Enum):
    """The layouts of FLAVA's weights that are in the world, as error messages name them."""

    ORIGINAL = "an original FLAVA checkpoint"
    HUGGING_FACE = "an already converted (Hugging Face) FLAVA checkpoint"
    TORCHMULTIMODAL = "a torchmultimodal FLAVA checkpoint"
    TORCHMULTIMODAL_MODEL = "a torchmultimodal FLAVAModel (encoders alone)"
    DALLE = "a DALL-E encoder (the image codebook)"
    HUGGING_FACE_CODEBOOK = "an already converted (Hugging Face) image codebook"
    UNKNOWN = "neither FLAVA nor its codebook"


# The first pattern that a key matches decides what it speaks for; the most keys decide the layout.
# image_encoder.embeddings.* stands in two layouts and so speaks for none.
_MARKS = (
    (Kind.ORIGINAL, r"(image|text|mm)_encoder\.module\.|heads\.(cmd|fairseq_mlm|imagenet)\.|mm_(image|text)_projection\."),
    (Kind.HUGGING_FACE, r"flava\.|(image|text|multimodal)_model\.|(mim|mlm|mmm_image|mmm_text|itm)_head\."),
    (Kind.HUGGING_FACE_CODEBOOK, r"(image_codebook\.)?blocks\.(group_\d+\.group\.|.*\.(weight|bias)\Z)"),
    (Kind.DALLE, r"(encoder\.)?blocks\.(group_\d+\.block_|.*\.[wb]\Z)"),
    (
        Kind.TORCHMULTIMODAL,
        r"model\.((image|text|mm)_encoder|(image|text)(_to_mm)?_projection)\.|loss\.(\w+_loss)\."
        r"|image_codebook\.encoder\.blocks\.|mmm_(mlm|mim)_head\.",
    ),
    (
        Kind.TORCHMULTIMODAL_MODEL,
        r"(image|text|mm)_encoder\.(encoder|layernorm|pooler|cls_token)\b|(image|text)_to_mm_projection\.",
    ),
)  # fmt: skip
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _MARKS)


def recognise(keys: Iterable[str]) -> Kind:
    """The layout that most of the keys speak for."""
    votes = Counter(kind for key in keys if (kind := _kind_of(key)))
    return votes.most_common(1)[0][0] if votes else Kind.UNKNOWN


def _kind_of(key: str) -> Kind | None:
    return next((kind for kind, pattern in _PATTERNS if pattern.match(key)), None)
