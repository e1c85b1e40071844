"""What the code behind a checkpoint computes, where neither a shape nor a config of transformers tells it."""

from dataclasses import dataclass

from .recognise import Kind


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
ORIGINAL = Semantics("the original")

# modules/losses/flava.py of torchmultimodal-nightly 2024.4.1: the defaults of FLAVAPretrainingLoss and the clamp in
# FLAVAGlobalContrastiveLoss. The encoders' epsilon is the original's, 1e-12 (models/flava/model.py).
TORCHMULTIMODAL = Semantics(
    "torchmultimodal",
    ignore_index=-1,
    head_layer_norm_eps=1e-5,
    logit_scale_range=(0.0, 4.6052),
    mask_token_is_optional=True,  # `use_image_masking`
)


def semantics_of(kind: Kind) -> Semantics:
    """Those of the implementation that writes this layout."""
    return TORCHMULTIMODAL if kind in (Kind.TORCHMULTIMODAL, Kind.TORCHMULTIMODAL_MODEL) else ORIGINAL
