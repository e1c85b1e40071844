"""The layouts, that is the naming schemes of keys, in which FLAVA's weights are found.

`recognise` tells the layout from the keys. `WAYS` renames keys of a layout to transformers' names and back, by way of the
original's names, where all tables start. `semantics_of` says what the code that writes a layout computes differently.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from .engine import Trace
from .tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, MODEL_PREFIX, TORCHMULTIMODAL, source_name, table_for


class Layout(Enum):
    """A naming scheme of keys. The value is what messages and conversion.json call a checkpoint in it."""

    ORIGINAL = "an original FLAVA checkpoint"
    HUGGING_FACE = "an already converted (Hugging Face) FLAVA checkpoint"
    TORCHMULTIMODAL = "a torchmultimodal FLAVA checkpoint"
    TORCHMULTIMODAL_MODEL = "a torchmultimodal FLAVAModel (encoders alone)"
    DALLE = "a DALL-E encoder (the image codebook)"
    HUGGING_FACE_CODEBOOK = "an already converted (Hugging Face) image codebook"
    UNKNOWN = "neither FLAVA nor its codebook"


# A key votes for the layout of the first pattern that it matches. The layout with the most votes is taken.
# image_encoder.embeddings.* occurs in two layouts, and so no pattern matches it.
_PATTERNS = tuple((layout, re.compile(pattern)) for layout, pattern in (
    (Layout.ORIGINAL, r"(image|text|mm)_encoder\.module\.|heads\.(cmd|fairseq_mlm|imagenet)\.|mm_(image|text)_projection\."),
    (Layout.HUGGING_FACE, r"flava\.|(image|text|multimodal)_model\.|(mim|mlm|mmm_image|mmm_text|itm)_head\."),
    (Layout.HUGGING_FACE_CODEBOOK, r"(image_codebook\.)?blocks\.(group_\d+\.group\.|.*\.(weight|bias)\Z)"),
    (Layout.DALLE, r"(encoder\.)?blocks\.(group_\d+\.block_|.*\.[wb]\Z)"),
    (
        Layout.TORCHMULTIMODAL,
        r"model\.((image|text|mm)_encoder|(image|text)(_to_mm)?_projection)\.|loss\.(\w+_loss)\."
        r"|image_codebook\.encoder\.blocks\.|mmm_(mlm|mim)_head\.",
    ),
    (Layout.TORCHMULTIMODAL_MODEL, r"(image|text|mm)_encoder\.(encoder|layernorm|pooler|cls_token)\b|(image|text)_to_mm_projection\."),
))  # fmt: skip


def recognise(keys: Iterable[str]) -> Layout:
    """The layout that most of the keys belong to; `Layout.UNKNOWN` where no key belongs to any."""
    of_each = (next((layout for layout, pattern in _PATTERNS if pattern.match(key)), None) for key in keys)
    votes = Counter(layout for layout in of_each if layout)
    return votes.most_common(1)[0][0] if votes else Layout.UNKNOWN


@dataclass(frozen=True)
class Semantics:
    """What one implementation computes with the weights, where implementations differ."""

    name: str
    ignore_index: int = -100  # a label with this value counts for no loss
    head_layer_norm_eps: float | None = None  # of the masked-prediction heads; None: the same as their encoders'
    logit_scale_range: tuple[float, float] | None = None  # every forward pass clamps the scale to it
    mask_token_is_optional: bool = False  # whether a checkpoint may lack the image encoder's mask token

    def as_json(self) -> dict:
        """The part of it that conversion.json records."""
        return {"name": self.name, "head_layer_norm_eps": self.head_layer_norm_eps, "logit_scale_range": self.logit_scale_range}


# transformers' FLAVA is a port of the original, and computes this.
ORIGINAL_SEMANTICS = Semantics("the original")

# modules/losses/flava.py of torchmultimodal-nightly 2024.4.1: the defaults of FLAVAPretrainingLoss and the clamp in
# FLAVAGlobalContrastiveLoss. The encoders' epsilon is the original's, 1e-12 (models/flava/model.py).
TORCHMULTIMODAL_SEMANTICS = Semantics(
    "torchmultimodal",
    ignore_index=-1,
    head_layer_norm_eps=1e-5,
    logit_scale_range=(0.0, 4.6052),
    mask_token_is_optional=True,  # `use_image_masking`
)


def semantics_of(layout: Layout, head_layer_norm_eps: float | None = None) -> Semantics:
    """The semantics of the implementation that writes this layout; with another epsilon of its heads, where one is given."""
    theirs = TORCHMULTIMODAL_SEMANTICS if layout in LAYOUTS_BY_NAME["torchmultimodal"] else ORIGINAL_SEMANTICS
    return theirs if head_layer_norm_eps is None else replace(theirs, head_layer_norm_eps=head_layer_norm_eps)


@dataclass(frozen=True)
class Way:
    """How keys of one layout are renamed: ``to`` gives a key's name in `FlavaForPreTraining`, ``back`` the reverse."""

    to: Callable[[str], Trace]
    back: Callable[[str], str]


def to_hugging_face(original: str) -> Trace:
    """Renames a key of the original, or of its codebook, to `FlavaForPreTraining`'s name."""
    return _codebook(original) if table_for(original) is CODEBOOK else FLAVA.trace(original)


def from_torchmultimodal(key: str) -> Trace:
    """Renames a key of torchmultimodal's `FLAVAForPreTraining` to transformers' name, by way of the original's."""
    original = TORCHMULTIMODAL.source_of(key)
    on = to_hugging_face(original)
    steps = [replace(step, table=TORCHMULTIMODAL.name) for step in TORCHMULTIMODAL.back(key).steps]
    steps += [replace(step, table=table_for(original).name) for step in on.steps]
    return Trace(key, tuple(steps), on.target, on.dropped)


def to_torchmultimodal(target: str) -> str | None:
    """torchmultimodal's name for a key of `FlavaForPreTraining`, or None where it has none."""
    return TORCHMULTIMODAL.rename(source_name(target))


def _codebook(key: str) -> Trace:
    trace = CODEBOOK.trace(key)
    assert trace.target is not None  # the codebook's table drops nothing
    return replace(trace, target=CODEBOOK_PREFIX + trace.target)


WAYS = {
    Layout.ORIGINAL: Way(FLAVA.trace, source_name),
    Layout.DALLE: Way(_codebook, source_name),
    Layout.TORCHMULTIMODAL: Way(from_torchmultimodal, lambda target: to_torchmultimodal(target) or target),
    Layout.TORCHMULTIMODAL_MODEL: Way(
        lambda key: replace(from_torchmultimodal(MODEL_PREFIX + key), source=key),
        lambda target: (to_torchmultimodal(target) or target).removeprefix(MODEL_PREFIX),
    ),
    Layout.HUGGING_FACE: Way(lambda key: Trace(key, (), key), str),
    Layout.HUGGING_FACE_CODEBOOK: Way(lambda key: Trace(key, (), key), str),
}

# The names that `--from` takes, each with the layouts that it stands for; the whole model's layout comes first.
LAYOUTS_BY_NAME = {
    "original": (Layout.ORIGINAL,),
    "torchmultimodal": (Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL),
    "hf": (Layout.HUGGING_FACE,),
}
