"""The layouts of FLAVA's weights: told by their keys, led to transformers' names, and what their code computes.

Only the tables from the original's layout say what becomes what. A torchmultimodal key goes back
through its table to the original's name, and on from there as the original's does.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from .engine import Trace
from .tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, MODEL_PREFIX, TORCHMULTIMODAL, source_name, table_for


class Layout(Enum):
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
    (Layout.ORIGINAL, r"(image|text|mm)_encoder\.module\.|heads\.(cmd|fairseq_mlm|imagenet)\.|mm_(image|text)_projection\."),
    (Layout.HUGGING_FACE, r"flava\.|(image|text|multimodal)_model\.|(mim|mlm|mmm_image|mmm_text|itm)_head\."),
    (Layout.HUGGING_FACE_CODEBOOK, r"(image_codebook\.)?blocks\.(group_\d+\.group\.|.*\.(weight|bias)\Z)"),
    (Layout.DALLE, r"(encoder\.)?blocks\.(group_\d+\.block_|.*\.[wb]\Z)"),
    (
        Layout.TORCHMULTIMODAL,
        r"model\.((image|text|mm)_encoder|(image|text)(_to_mm)?_projection)\.|loss\.(\w+_loss)\."
        r"|image_codebook\.encoder\.blocks\.|mmm_(mlm|mim)_head\.",
    ),
    (
        Layout.TORCHMULTIMODAL_MODEL,
        r"(image|text|mm)_encoder\.(encoder|layernorm|pooler|cls_token)\b|(image|text)_to_mm_projection\.",
    ),
)  # fmt: skip
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _MARKS)


def recognise(keys: Iterable[str]) -> Layout:
    """The layout that most of the keys speak for."""
    votes = Counter(kind for key in keys if (kind := _kind_of(key)))
    return votes.most_common(1)[0][0] if votes else Layout.UNKNOWN


def _kind_of(key: str) -> Layout | None:
    return next((kind for kind, pattern in _PATTERNS if pattern.match(key)), None)


@dataclass(frozen=True)
class Semantics:
    """How one implementation reads the same weights."""

    name: str
    ignore_index: int = -100
    head_layer_norm_eps: float | None = None  # of the masked-prediction heads; None: their encoders'
    logit_scale_range: tuple[float, float] | None = None  # clamped to in every forward pass
    mask_token_is_optional: bool = False

    def as_json(self) -> dict:
        """What a record of a conversion says of it."""
        return {"name": self.name, "head_layer_norm_eps": self.head_layer_norm_eps, "logit_scale_range": self.logit_scale_range}


# As transformers has it, whose port of the original this is.
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


def semantics_of(kind: Layout) -> Semantics:
    """Those of the implementation that writes this layout."""
    return TORCHMULTIMODAL_SEMANTICS if kind in (Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL) else ORIGINAL_SEMANTICS


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
    Layout.ORIGINAL: Way(FLAVA.trace, source_name),
    Layout.DALLE: Way(_codebook, source_name),
    Layout.TORCHMULTIMODAL: Way(from_torchmultimodal, lambda target: to_torchmultimodal(target) or target),
    Layout.TORCHMULTIMODAL_MODEL: Way(
        _bare_torchmultimodal, lambda target: (to_torchmultimodal(target) or target).removeprefix(MODEL_PREFIX)
    ),
    Layout.HUGGING_FACE: Way(_already_there, str),
}


# The layouts that `--from` takes, with the kinds of file that are in them, the whole model first.
LAYOUTS_BY_NAME = {
    "original": (Layout.ORIGINAL,),
    "torchmultimodal": (Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL),
    "hf": (Layout.HUGGING_FACE,),
}
