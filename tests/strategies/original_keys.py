"""The keys that the original's published checkpoint and codebook have, written out without any rule."""

from collections.abc import Iterable
from functools import lru_cache
from itertools import product

MOST_LAYERS = 1000  # numbers of up to three digits
WEIGHT_BIAS = ("weight", "bias")
ENCODERS = ("image_encoder", "text_encoder", "mm_encoder")
LAYER_PARTS = (
    "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
    "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after",
)  # fmt: skip
ENCODER_PARTS = ("layernorm", "pooler.dense")
EMBEDDINGS = {
    "image_encoder": (
        "cls_token", "mask_token", "position_embeddings",
        "patch_embeddings.projection.weight", "patch_embeddings.projection.bias",
    ),
    "text_encoder": (
        "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight",
        "LayerNorm.weight", "LayerNorm.bias", "position_ids",
    ),
}  # fmt: skip
PROJECTIONS = ("mm_image_projection", "mm_text_projection", "image_projection", "text_projection")
PREDICTION_HEADS = ("heads.cmd.mim_head", "heads.cmd.mlm_head", "heads.fairseq_mlm", "heads.imagenet.mim_head")
PREDICTION_PARTS = (
    "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight", "transform.LayerNorm.bias",
    "decoder.weight", "decoder.bias", "bias",
)  # fmt: skip
HEADS = {
    **{head: tuple(f"{head}.cls.predictions.{part}" for part in PREDICTION_PARTS) for head in PREDICTION_HEADS},
    "heads.cmd.itm_head": tuple(f"heads.cmd.itm_head.{p}.{w}" for p in ("pooler.dense", "cls.seq_relationship") for w in WEIGHT_BIAS),
    "heads.cmd.clip_head": ("heads.cmd.clip_head.logit_scale",),
}
CODEBOOK_GROUPS, CODEBOOK_CONVOLUTIONS = 4, 4


@lru_cache(maxsize=4096)
def layer_keys(encoder: str, number: int) -> tuple[str, ...]:
    return tuple(f"{encoder}.module.encoder.layer.{number}.{p}.{w}" for p, w in product(LAYER_PARTS, WEIGHT_BIAS))


@lru_cache(maxsize=64)
def fixed_keys(heads: tuple[str, ...] = tuple(HEADS), second_copies: bool = True) -> tuple[str, ...]:
    """Every key outside the layers."""
    keys = [f"{e}.module.{p}.{w}" for e, p, w in product(ENCODERS, ENCODER_PARTS, WEIGHT_BIAS)]
    keys += [f"{e}.module.embeddings.{part}" for e, parts in EMBEDDINGS.items() for part in parts]
    if second_copies:
        keys += [f"{e}.embeddings.{part}" for e, parts in EMBEDDINGS.items() for part in parts]
    keys += ["mm_encoder.module.encoder.cls_token"]
    keys += [f"{p}.{w}" for p, w in product(PROJECTIONS, WEIGHT_BIAS)]
    return (*keys, *(key for head in heads for key in HEADS[head]))


def original_keys(layers: Iterable[int] = (0, 1, 10, 123)) -> tuple[str, ...]:
    """The keys of a whole checkpoint whose encoders have the layers of these numbers."""
    return (*fixed_keys(), *(key for e, n in product(ENCODERS, layers) for key in layer_keys(e, n)))


def every_original_key() -> tuple[str, ...]:
    """The whole grammar: every key with every layer number of up to three digits."""
    return original_keys(range(MOST_LAYERS))


@lru_cache(maxsize=16)
def codebook_keys(groups: int = CODEBOOK_GROUPS, blocks: int = 2) -> tuple[str, ...]:
    """The keys of a DALL-E encoder; all blocks with an id path, as the first of a group may have."""
    convolutions = ["blocks.input", "blocks.output.conv"]
    for group, block in product(range(1, groups + 1), range(1, blocks + 1)):
        here = f"blocks.group_{group}.block_{block}"
        convolutions += [f"{here}.id_path", *(f"{here}.res_path.conv_{n}" for n in range(1, CODEBOOK_CONVOLUTIONS + 1))]
    return tuple(f"{name}.{part}" for name in convolutions for part in "wb")
