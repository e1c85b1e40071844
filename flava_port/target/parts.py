"""FLAVA as a whole, and the parts of it that transformers has classes of their own for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ..rules.tables import CODEBOOK_PREFIX


@dataclass(frozen=True)
class Part:
    """A class of transformers, and where its weights and its config stand in those of the whole model."""

    name: str
    model_class: str
    config_class: str
    prefix: str = ""  # of its keys in `FlavaForPreTraining`
    section: str = ""  # of `FlavaConfig`; empty for the whole config
    without: str = ""  # keys that begin so are left out, though they begin with the prefix too

    def __str__(self) -> str:
        return self.model_class + (" without its codebook" if self.without else "")

    def holds(self, key: str) -> bool:
        """Whether a key of `FlavaForPreTraining` belongs to this part."""
        return key.startswith(self.prefix) and not (self.without and key.startswith(self.without))

    def config_of(self, config: Mapping) -> Mapping:
        """This part's section of a whole config."""
        return config[self.section] if self.section else config


WHOLE = Part("whole", "FlavaForPreTraining", "FlavaConfig")
WITHOUT_CODEBOOK = replace(WHOLE, without=CODEBOOK_PREFIX)
MODEL = Part("model", "FlavaModel", "FlavaConfig", "flava.")
CODEBOOK_PART = Part("codebook", "FlavaImageCodebook", "FlavaImageCodebookConfig", CODEBOOK_PREFIX, "image_codebook_config")

# By the name that `--part` takes.
PARTS = {
    **{name: Part(name, f"Flava{name.title()}Model", f"Flava{name.title()}Config", f"flava.{name}_model.", f"{name}_config")
       for name in ("image", "text", "multimodal")},
    MODEL.name: MODEL,
}  # fmt: skip

# How the keys of each part's own file begin, as its class has them.
_BEGINNINGS = (
    (WHOLE, ("flava.", "image_codebook.", "mim_head.", "mlm_head.", "mmm_image_head.", "mmm_text_head.", "itm_head.")),
    (CODEBOOK_PART, ("blocks.",)),
    (PARTS["image"], ("embeddings.patch_embeddings.", "embeddings.cls_token", "embeddings.mask_token")),
    (PARTS["text"], ("embeddings.word_embeddings.", "embeddings.token_type_embeddings.", "embeddings.LayerNorm.")),
    (MODEL, ("image_model.", "text_model.", "multimodal_model.")),
    (PARTS["multimodal"], ("cls_token", "encoder.layer.")),
)


def part_with(keys: Collection[str]) -> Part:
    """The part in whose class's own file these keys stand; the whole where they are of none."""
    return next((part for part, beginnings in _BEGINNINGS if any(key.startswith(beginnings) for key in keys)), WHOLE)
