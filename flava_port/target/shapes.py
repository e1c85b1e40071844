"""Every key of `FlavaForPreTraining` and its shape, stated for any config.

All known releases of transformers agree in them. In what else they differ, `epochs` says.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from .config import both_sides, with_defaults

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: Mapping) -> Shapes:
    """The shape of every key but position_ids, which a file need not hold.

    ``config`` is a whole model's; fields that it leaves out have FLAVA's defaults.
    """
    config = with_defaults(config)
    image, text, multimodal = config["image_config"], config["text_config"], config["multimodal_config"]
    image_width, text_width, multimodal_width = image["hidden_size"], text["hidden_size"], multimodal["hidden_size"]
    width, projected = config["hidden_size"], config["projection_dim"]
    shapes = {
        "flava.logit_scale": (),
        **_text_embeddings("flava.text_model.embeddings", text),
        **_encoder("flava.text_model", text),
        **_image_embeddings("flava.image_model.embeddings", image),
        **_encoder("flava.image_model", image),
        **({"flava.multimodal_model.cls_token": (1, 1, multimodal_width)} if multimodal["use_cls_token"] else {}),
        **_encoder("flava.multimodal_model", multimodal),
        **_linear("flava.image_projection", projected, image_width),
        **_linear("flava.text_projection", projected, text_width),
        **_linear("flava.image_to_mm_projection", multimodal_width, image_width),
        **_linear("flava.text_to_mm_projection", multimodal_width, text_width),
        **(_codebook("image_codebook.blocks", config["image_codebook_config"]) if config["init_codebook"] else {}),
        **_prediction_head("mim_head", image),
        **_prediction_head("mlm_head", text),
        **_linear("itm_head.pooler.dense", width, width),
        **_linear("itm_head.seq_relationship", 2, width),
        **_prediction_head("mmm_image_head", image),
        **_prediction_head("mmm_text_head", text),
    }
    return _layers_side_by_side(shapes)


def _layers_side_by_side(shapes: Shapes) -> Shapes:
    """The same in another order: keys of one shape that differ in the number of a layer or block stand together.

    Files are written in this order, and shards filled in it. Another order would change the bytes of what is written.
    """
    likes: dict[object, Shapes] = defaultdict(dict)
    for key, shape in shapes.items():
        likes[re.sub(r"(layer\.|block_)\d+", r"\1", key), shape][key] = shape
    return {key: shape for same in likes.values() for key, shape in same.items()}


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), **({f"{name}.bias": (outputs,)} if bias else {})}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _text_embeddings(name: str, text: Mapping) -> Shapes:
    width = text["hidden_size"]
    return {
        f"{name}.word_embeddings.weight": (text["vocab_size"], width),
        f"{name}.position_embeddings.weight": (text["max_position_embeddings"], width),
        f"{name}.token_type_embeddings.weight": (text["type_vocab_size"], width),
        **_norm(f"{name}.LayerNorm", width),
    }


def _image_embeddings(name: str, image: Mapping) -> Shapes:
    width = image["hidden_size"]
    height, breadth = both_sides(image["image_size"])
    patch_height, patch_breadth = both_sides(image["patch_size"])
    positions = 1 + (height // patch_height) * (breadth // patch_breadth)  # one is the CLS token's
    return {
        f"{name}.cls_token": (1, 1, width),
        **({f"{name}.mask_token": (1, 1, width)} if image["mask_token"] else {}),
        f"{name}.position_embeddings": (1, positions, width),
        f"{name}.patch_embeddings.projection.weight": (width, image["num_channels"], patch_height, patch_breadth),
        f"{name}.patch_embeddings.projection.bias": (width,),
    }


def _encoder(name: str, encoder: Mapping) -> Shapes:
    """The layers, the layer norm after them, and the pooler."""
    width, inner, qkv_bias = encoder["hidden_size"], encoder["intermediate_size"], encoder["qkv_bias"]
    shapes: Shapes = {}
    for layer in (f"{name}.encoder.layer.{number}" for number in range(encoder["num_hidden_layers"])):
        for projection in ("query", "key", "value"):
            shapes |= _linear(f"{layer}.attention.attention.{projection}", width, width, bias=qkv_bias)
        shapes |= _linear(f"{layer}.attention.output.dense", width, width)
        shapes |= _linear(f"{layer}.intermediate.dense", inner, width) | _linear(f"{layer}.output.dense", width, inner)
        shapes |= _norm(f"{layer}.layernorm_before", width) | _norm(f"{layer}.layernorm_after", width)
    return shapes | _norm(f"{name}.layernorm", width) | _linear(f"{name}.pooler.dense", width, width)


def _prediction_head(name: str, encoder: Mapping) -> Shapes:
    """A head that predicts the encoder's masked tokens; its two biases are one tensor."""
    width, vocabulary = encoder["hidden_size"], encoder["vocab_size"]
    return {
        f"{name}.bias": (vocabulary,),
        **_linear(f"{name}.transform.dense", width, width),
        **_norm(f"{name}.transform.LayerNorm", width),
        **_linear(f"{name}.decoder", vocabulary, width),
    }


def _codebook(name: str, codebook: Mapping) -> Shapes:
    """DALL-E's encoder: four groups of blocks, each group twice as wide as the one before."""
    width = codebook["hidden_size"]
    shapes = _convolution(f"{name}.input", width, codebook["input_channels"], 7)
    inputs = width
    for group, outputs in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        inner = outputs // 4
        for number in range(1, codebook["num_blocks_per_group"] + 1):
            block = f"{name}.group_{group}.group.block_{number}"
            if inputs != outputs:
                shapes |= _convolution(f"{block}.id_path", outputs, inputs, 1)
            for conv, (to, of, side) in enumerate(((inner, inputs, 3), (inner, inner, 3), (inner, inner, 3), (outputs, inner, 1)), start=1):
                shapes |= _convolution(f"{block}.res_path.path.conv_{conv}", to, of, side)
            inputs = outputs
    return shapes | _convolution(f"{name}.output.conv", codebook["vocab_size"], 8 * width, 1)


def _convolution(name: str, outputs: int, inputs: int, side: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}
