"""The rename tables as data.

Every table starts at the original's layout: `FLAVA` leads to Hugging Face's, `CODEBOOK` does the same for the codebook's
own file, and `TORCHMULTIMODAL` leads to torchmultimodal's.
"""

from .engine import Drop, Rule, RuleTable

_SECOND_COPY = "the checkpoint holds the embeddings twice; the copy under the encoder's module is kept"

# The replacements of the upstream converter (transformers 4.20.0 to 4.47.1,
# convert_flava_original_pytorch_to_hf.py), in its order.
FLAVA = RuleTable(
    name="flava",
    source="original",
    target="Hugging Face",
    drops=(
        Drop("text_encoder.embeddings", kept="text_encoder.module.embeddings", because=_SECOND_COPY),
        Drop("image_encoder.embeddings", kept="image_encoder.module.embeddings", because=_SECOND_COPY),
    ),
    rules=(
        Rule("heads.cmd.mim_head.cls.predictions", "mmm_image_head"),
        Rule("heads.cmd.mlm_head.cls.predictions", "mmm_text_head"),
        Rule("heads.cmd.itm_head.cls", "itm_head"),
        Rule("heads.cmd.itm_head.pooler", "itm_head.pooler"),
        Rule("heads.cmd.clip_head.logit_scale", "flava.logit_scale"),
        Rule("heads.fairseq_mlm.cls.predictions", "mlm_head"),
        Rule("heads.imagenet.mim_head.cls.predictions", "mim_head"),
        Rule("mm_text_projection", "flava.text_to_mm_projection"),
        Rule("mm_image_projection", "flava.image_to_mm_projection"),
        Rule("image_encoder.module", "flava.image_model"),
        Rule("text_encoder.module", "flava.text_model"),
        Rule("mm_encoder.module.encoder.cls_token", "flava.multimodal_model.cls_token"),
        Rule("mm_encoder.module", "flava.multimodal_model"),
        Rule("text_projection", "flava.text_projection"),
        Rule("image_projection", "flava.image_projection"),
    ),
)

# From OpenAI's DALL-E encoder to FlavaImageCodebook (transformers 4.20.0 to 4.47.1,
# convert_dalle_to_flava_codebook.py).
CODEBOOK = RuleTable(
    name="codebook",
    source="DALL-E",
    target="Hugging Face",
    drops=(),
    rules=(
        Rule("group_1.", "group_1.group."),
        Rule("group_2.", "group_2.group."),
        Rule("group_3.", "group_3.group."),
        Rule("group_4.", "group_4.group."),
        Rule("res_path.", "res_path.path."),
        Rule(".w", ".weight", at_end=True),
        Rule(".b", ".bias", at_end=True),
    ),
)

_HEADS_OF_2022 = {
    "mlm_head": "heads.fairseq_mlm",
    "mim_head": "heads.imagenet.mim_head",
    "mmm_mlm_head": "heads.cmd.mlm_head",
    "mmm_mim_head": "heads.cmd.mim_head",
}
_PARTS_OF_A_HEAD_OF_2022 = {"transform.dense": "dense", "transform.LayerNorm": "layer_norm", "decoder": "decoder", "bias": "bias"}

# To Meta's public implementation, `FLAVAForPreTraining` (torchmultimodal-nightly 2024.4.1: models/flava/model.py,
# models/flava/transformer.py, modules/losses/flava.py). It also holds the codebook, so this table takes the keys
# of both original files.
TORCHMULTIMODAL = RuleTable(
    name="torchmultimodal",
    source="original",
    target="torchmultimodal",
    drops=FLAVA.drops,
    rules=(
        Rule("mm_encoder.module.encoder.cls_token", "model.mm_encoder.cls_token"),
        Rule("mm_encoder.module", "model.mm_encoder"),
        Rule("image_encoder.module", "model.image_encoder"),
        Rule("text_encoder.module", "model.text_encoder"),
        Rule("embeddings.LayerNorm", "embeddings.layer_norm"),
        Rule("attention.attention.query", "attention.query"),
        Rule("attention.attention.key", "attention.key"),
        Rule("attention.attention.value", "attention.value"),
        Rule("attention.output.dense", "attention.output"),
        Rule("intermediate.dense", "feedforward.model.0"),
        Rule("output.dense", "feedforward.model.2"),
        Rule("layernorm_before", "attention_layernorm"),
        Rule("layernorm_after", "feedforward_layernorm"),
        Rule("mm_image_projection", "model.image_to_mm_projection"),
        Rule("mm_text_projection", "model.text_to_mm_projection"),
        Rule("image_projection", "model.image_projection"),
        Rule("text_projection", "model.text_projection"),
        Rule("heads.cmd.mim_head", "loss.mmm_loss.mim"),
        Rule("heads.cmd.mlm_head", "loss.mmm_loss.mlm"),
        Rule("heads.imagenet.mim_head", "loss.mim_loss"),
        Rule("heads.fairseq_mlm", "loss.mlm_loss"),
        Rule("cls.predictions.transform.dense", "cls.dense"),
        Rule("cls.predictions.transform.LayerNorm", "cls.layer_norm"),
        Rule("cls.predictions.decoder", "cls.decoder"),
        Rule("cls.predictions.bias", "cls.bias"),
        Rule("heads.cmd.itm_head", "loss.itm_loss"),
        Rule("heads.cmd.clip_head.logit_scale", "loss.contrastive_loss.logit_scale"),
        Rule("blocks", "image_codebook.encoder.blocks"),
    ),
    # Names of 2022, from the public history of facebookresearch/multimodal. The layers and the text embeddings still
    # had names close to the original's then (modules/layers/transformer.py, flava_text_encoder.py): layernorm_before,
    # layernorm_after, LayerNorm and position_ids are the original's own.
    older=(
        # The first release, whose checkpoint is flava_full_pretrained_encoders_torchmm (commit 6462edf;
        # examples/flava/tools/convert_weights.py made it from the original).
        *(Rule(f"attention.attention.{part}", f"attention.attention.{part}") for part in ("query", "key", "value")),
        Rule("intermediate.dense", "intermediate"),
        Rule("output.dense.weight", "output.weight"),
        Rule("output.dense.bias", "output.bias"),
        Rule("image_projection", "loss.contrastive_loss.image_projection"),
        Rule("text_projection", "loss.contrastive_loss.text_projection"),
        # The checkpoint flava_for_pretraining_projection_itm_mp: heads beside the model, not in its loss (commit 02d8b00).
        Rule("heads.cmd.itm_head", "itm_head"),
        *(
            Rule(f"{original}.cls.predictions.{part}", f"{head}.{name}")
            for head, original in _HEADS_OF_2022.items()
            for part, name in _PARTS_OF_A_HEAD_OF_2022.items()
        ),
    ),
)

TABLES = (FLAVA, CODEBOOK, TORCHMULTIMODAL)

# What FlavaForPreTraining puts before the keys of the converted codebook.
CODEBOOK_PREFIX = "image_codebook."

# What a torchmultimodal FLAVAForPreTraining puts before the keys of its FLAVAModel.
MODEL_PREFIX = "model."


def source_name(target: str) -> str:
    """The original's name for a key of `FlavaForPreTraining` or of its codebook."""
    if target.startswith(CODEBOOK_PREFIX):
        return CODEBOOK.source_of(target.removeprefix(CODEBOOK_PREFIX))
    return FLAVA.source_of(target)


def table_for(key: str) -> RuleTable:
    """The table that renames a key of the original to transformers' name: `CODEBOOK` for ``blocks.*``, else `FLAVA`."""
    return CODEBOOK if key.startswith("blocks.") else FLAVA
