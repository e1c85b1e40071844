"""Configs of small models, of any combination of sizes and switches that FLAVA's classes allow."""

from copy import deepcopy

from hypothesis import strategies as st

from flava_port.target.config import DEFAULTS

ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "relu")


@st.composite
def _encoders(draw, section: str) -> dict:
    """``{"hidden_size": 6, "num_attention_heads": 3, ...}``, the rest as published."""
    heads = draw(st.integers(1, 4))
    return {
        **deepcopy(DEFAULTS[section]),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.integers(1, 5)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(1, 9)),
        "hidden_act": draw(st.sampled_from(ACTIVATIONS)),
        "qkv_bias": draw(st.booleans()),
    }


@st.composite
def _image_sizes(draw) -> dict:
    """``{"image_size": [7, 9], "patch_size": 3}``: whole patches or not, a side given once or both."""
    patch = [draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    image = [side * draw(st.integers(1, 3)) + draw(st.integers(0, side - 1)) for side in patch]
    if draw(st.booleans()):
        patch, image = patch[0], [max(patch[0], side) for side in image]
    return {"patch_size": patch, "image_size": image[0] if isinstance(patch, int) and draw(st.booleans()) else image}


@st.composite
def codebook_configs(draw) -> dict:
    """``{"hidden_size": 9, "num_blocks_per_group": 3, ...}``; four at least, or a convolution would be empty."""
    return {
        **DEFAULTS["image_codebook_config"],
        "input_channels": draw(st.integers(1, 4)),
        "num_blocks_per_group": draw(st.integers(1, 3)),
        "hidden_size": draw(st.integers(4, 13)),
        "vocab_size": draw(st.integers(1, 9)),
    }


@st.composite
def flava_configs(draw) -> dict:
    """``{"image_config": {...}, "hidden_size": 4, ...}``; some fields left to their defaults where these are small."""
    sizes = st.integers(1, 9)
    image = draw(_encoders("image_config")) | draw(_image_sizes()) | {"num_channels": draw(sizes), "vocab_size": draw(sizes)}
    text = draw(_encoders("text_config")) | {"vocab_size": draw(sizes), "max_position_embeddings": draw(sizes)}
    config = {
        **DEFAULTS,
        "image_config": image | {"mask_token": draw(st.booleans())},
        "text_config": text | {"type_vocab_size": draw(sizes)},
        "multimodal_config": draw(_encoders("multimodal_config")) | {"use_cls_token": draw(st.booleans())},
        "image_codebook_config": draw(codebook_configs()),
        "hidden_size": draw(sizes),
        "projection_dim": draw(sizes),
        "init_codebook": draw(st.booleans()),
    }
    for name in draw(st.sets(st.sampled_from(("hidden_size", "projection_dim", "init_codebook", "mim_weight")))):
        del config[name]
    for section in draw(st.sets(st.sampled_from(("image_config", "text_config", "multimodal_config")))):
        for field in ("qkv_bias", "hidden_act", "model_type"):
            del config[section][field]
    return config
