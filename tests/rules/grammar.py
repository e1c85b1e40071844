"""The original's and torchmultimodal's names side by side, written out without any rule.

`tests/original/test_against_torchmultimodal.py` proves with torchmultimodal itself that each pair holds the same
weights. `fixtures/keys_torchmultimodal.json` has the keys of its models.
"""

from collections.abc import Iterable
from itertools import product

import torch

from tests.builders import tiny_codebook, tiny_state_dict
from tests.strategies import EMBEDDINGS, HEADS, WEIGHT_BIAS, codebook_keys

ENCODERS = {"image_encoder": "model.image_encoder", "text_encoder": "model.text_encoder", "mm_encoder": "model.mm_encoder"}
LAYER_PARTS = {
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    "attention.output.dense": "attention.output",
    "intermediate.dense": "feedforward.model.0",
    "output.dense": "feedforward.model.2",
    "layernorm_before": "attention_layernorm",
    "layernorm_after": "feedforward_layernorm",
}
PROJECTIONS = {
    "mm_image_projection": "model.image_to_mm_projection",
    "mm_text_projection": "model.text_to_mm_projection",
    "image_projection": "model.image_projection",
    "text_projection": "model.text_projection",
}
HEAD_NAMES = {
    "heads.cmd.mim_head": "loss.mmm_loss.mim",
    "heads.cmd.mlm_head": "loss.mmm_loss.mlm",
    "heads.fairseq_mlm": "loss.mlm_loss",
    "heads.imagenet.mim_head": "loss.mim_loss",
    "heads.cmd.itm_head": "loss.itm_loss",
    "heads.cmd.clip_head": "loss.contrastive_loss",
}
HEAD_PARTS = {
    "cls.predictions.transform.dense": "cls.dense",
    "cls.predictions.transform.LayerNorm": "cls.layer_norm",
    "cls.predictions": "cls",
}

# The names of 2022 for the layers, the text embeddings, the projections and the heads. All other names are today's.
OLDER_LAYER_PARTS = {
    **{part: part for part in LAYER_PARTS},
    "attention.output.dense": "attention.output",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
}
PROJECTION_ITM_MP_LAYER_PARTS = OLDER_LAYER_PARTS | {f"attention.attention.{p}": f"attention.{p}" for p in ("query", "key", "value")}
FIRST_PROJECTIONS = {name: f"loss.contrastive_loss.{name}" for name in ("image_projection", "text_projection")}
PROJECTION_ITM_MP_HEADS = {
    "heads.cmd.mim_head": "mmm_mim_head",
    "heads.cmd.mlm_head": "mmm_mlm_head",
    "heads.fairseq_mlm": "mlm_head",
    "heads.imagenet.mim_head": "mim_head",
    "heads.cmd.itm_head": "itm_head",
}


def side_by_side(layers: Iterable[int] = (0, 1, 10, 123)) -> dict[str, str]:
    """Today's torchmultimodal name of each key of the original that has one, the codebook's included."""
    pairs = _pairs(tuple(layers), LAYER_PARTS, "layer_norm", PROJECTIONS, HEAD_NAMES, HEAD_PARTS)
    return pairs | {key: f"image_codebook.encoder.{key}" for key in codebook_keys()}


def first_release(layers: Iterable[int] = (0, 11)) -> dict[str, str]:
    """The names in flava_full_pretrained_encoders_torchmm, which has the projections in the contrastive loss."""
    return _older(layers, OLDER_LAYER_PARTS, PROJECTIONS | FIRST_PROJECTIONS, HEAD_NAMES, HEAD_PARTS)


def remapped(layers: Iterable[int] = (0, 11)) -> dict[str, str]:
    """The names that examples/flava/notebooks/RemapFLAVACheckpoint.ipynb gave to the first release."""
    return _older(layers, PROJECTION_ITM_MP_LAYER_PARTS, PROJECTIONS | FIRST_PROJECTIONS, HEAD_NAMES, HEAD_PARTS)


def projection_itm_mp(layers: Iterable[int] = (0, 11)) -> dict[str, str]:
    """The names in flava_for_pretraining_projection_itm_mp, which has the projections in the model and the heads beside it."""
    heads = HEAD_NAMES | PROJECTION_ITM_MP_HEADS
    parts = {old: new.removeprefix("cls").removeprefix(".") for old, new in HEAD_PARTS.items()}
    return _older(layers, PROJECTION_ITM_MP_LAYER_PARTS, PROJECTIONS, heads, parts)


def _older(layers, layer_parts, projections, heads, head_parts) -> dict[str, str]:
    pairs = _pairs(tuple(layers), layer_parts, "LayerNorm", projections, heads, head_parts)
    position_ids = "embeddings.position_ids"
    pairs |= {f"text_encoder.module.{position_ids}": f"model.text_encoder.{position_ids}"}
    return pairs | {key: f"image_codebook.encoder.{key}" for key in codebook_keys()}


def _pairs(layers, layer_parts, text_norm, projections, heads, head_parts) -> dict[str, str]:
    pairs = {}
    for (encoder, theirs), weight in product(ENCODERS.items(), WEIGHT_BIAS):
        for number, (part, their_part) in product(layers, layer_parts.items()):
            pairs[f"{encoder}.module.encoder.layer.{number}.{part}.{weight}"] = f"{theirs}.encoder.layer.{number}.{their_part}.{weight}"
        for part in ("layernorm", "pooler.dense"):
            pairs[f"{encoder}.module.{part}.{weight}"] = f"{theirs}.{part}.{weight}"
    for encoder, parts in EMBEDDINGS.items():
        for part in parts:
            if part != "position_ids":
                pairs[f"{encoder}.module.embeddings.{part}"] = f"{ENCODERS[encoder]}.embeddings.{part.replace('LayerNorm', text_norm)}"
    pairs["mm_encoder.module.encoder.cls_token"] = "model.mm_encoder.cls_token"
    pairs |= {f"{name}.{weight}": f"{theirs}.{weight}" for (name, theirs), weight in product(projections.items(), WEIGHT_BIAS)}
    for head, keys in HEADS.items():
        for key in keys:
            rest = key.removeprefix(f"{head}.")
            part = next((part for part in head_parts if rest.startswith(f"{part}.")), "")
            their_part = head_parts[part] + rest.removeprefix(part) if part else rest
            pairs[key] = f"{heads[head]}.{their_part.removeprefix('.')}"
    return pairs


def tiny_torchmultimodal(names=side_by_side, *, bare: bool = False, codebook: bool = True) -> dict[str, torch.Tensor]:
    """The tiny checkpoint and codebook under torchmultimodal's names; with ``bare`` only the keys of its FLAVAModel."""
    weights = tiny_state_dict() | (tiny_codebook() if codebook else {})
    theirs = {new: weights[old] for old, new in names(range(4)).items() if old in weights}
    return {key.removeprefix("model."): value for key, value in theirs.items() if key.startswith("model.")} if bare else theirs
