"""Configs of small models, of two kinds.

`original_configs` are `FlavaConfig`s of models that the original can build. `hugging_face_configs` are the dicts of a
config.json, with every switch that transformers' classes have, also where the original has nothing like it.
"""

from copy import deepcopy

from hypothesis import strategies as st

from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.target.config import DEFAULTS

_HEADS = st.integers(1, 3)
_LAYERS = st.integers(1, 3)
_VOCABULARIES = st.integers(5, 40)
_ACTIVATIONS = st.sampled_from(("gelu", "gelu_new", "quick_gelu", "relu"))


@st.composite
def _original_encoders(draw, width: int | None = None) -> dict:
    """Sizes of one encoder, such as ``{"hidden_size": 24, "num_hidden_layers": 2, ...}``; ``width`` fixes the first."""
    heads = draw(_HEADS if width is None else st.sampled_from([n for n in (1, 2, 3) if width % n == 0]))
    return {
        "hidden_size": width or heads * draw(st.integers(1, 3)) * 4,
        "num_hidden_layers": draw(_LAYERS),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(3, 30)),
    }


@st.composite
def original_configs(draw, one_width: bool = False) -> FlavaConfig:
    """Tiny FLAVA configs whose three encoders differ in every size they can.

    With ``one_width`` all are equally wide: a model that runs needs that, for its MMM heads have the unimodal
    encoders' width and read the multimodal encoder's states.
    """
    patch = draw(st.integers(2, 6))
    width = draw(st.sampled_from([12, 24, 36])) if one_width else None
    return FlavaConfig(
        ImageConfig(
            **draw(_original_encoders(width)),
            image_size=patch * draw(st.integers(1, 4)),
            patch_size=patch,
            num_channels=draw(st.integers(1, 4)),
            vocab_size=draw(_VOCABULARIES),
        ),
        TextConfig(
            **draw(_original_encoders(width)),
            vocab_size=draw(_VOCABULARIES),
            max_position_embeddings=draw(st.integers(3, 24)),
            type_vocab_size=draw(st.integers(1, 4)),
        ),
        MultimodalConfig(**draw(_original_encoders(width))),
        projection_dim=draw(st.integers(2, 12)),
    )


def original_codebook_configs() -> st.SearchStrategy[CodebookConfig]:
    """Tiny codebooks of four groups, such as ``CodebookConfig(num_blocks_per_group=1, hidden_size=4, vocab_size=9)``."""
    return st.builds(
        CodebookConfig,
        num_groups=st.just(4),
        num_blocks_per_group=st.integers(1, 2),
        hidden_size=st.sampled_from([4, 8]),
        vocab_size=_VOCABULARIES,
        input_channels=st.integers(1, 3),
    )


@st.composite
def _hugging_face_encoders(draw, section: str) -> dict:
    """``{"hidden_size": 6, "num_attention_heads": 3, ...}``, the rest as published."""
    heads = draw(st.integers(1, 4))
    return {
        **deepcopy(DEFAULTS[section]),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.integers(1, 5)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(1, 9)),
        "hidden_act": draw(_ACTIVATIONS),
        "qkv_bias": draw(st.booleans()),
    }


@st.composite
def _hugging_face_image_sizes(draw) -> dict:
    """``{"image_size": [7, 9], "patch_size": 3}``: whole patches or not, a side given once or both."""
    patch = [draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    image = [side * draw(st.integers(1, 3)) + draw(st.integers(0, side - 1)) for side in patch]
    if draw(st.booleans()):
        patch, image = patch[0], [max(patch[0], side) for side in image]
    return {"patch_size": patch, "image_size": image[0] if isinstance(patch, int) and draw(st.booleans()) else image}


def hugging_face_codebook_configs() -> st.SearchStrategy[dict]:
    """``{"hidden_size": 9, "num_blocks_per_group": 3, ...}``; four at least, or a convolution would be empty."""
    return st.builds(
        dict,
        st.just(DEFAULTS["image_codebook_config"]),
        input_channels=st.integers(1, 4),
        num_blocks_per_group=st.integers(1, 3),
        hidden_size=st.integers(4, 13),
        vocab_size=st.integers(1, 9),
    )


@st.composite
def hugging_face_configs(draw) -> dict:
    """``{"image_config": {...}, "hidden_size": 4, ...}``; some fields left to their defaults where these are small."""
    sizes = st.integers(1, 9)
    image = (
        draw(_hugging_face_encoders("image_config"))
        | draw(_hugging_face_image_sizes())
        | {"num_channels": draw(sizes), "vocab_size": draw(sizes)}
    )
    text = draw(_hugging_face_encoders("text_config")) | {"vocab_size": draw(sizes), "max_position_embeddings": draw(sizes)}
    config = {
        **DEFAULTS,
        "image_config": image | {"mask_token": draw(st.booleans())},
        "text_config": text | {"type_vocab_size": draw(sizes)},
        "multimodal_config": draw(_hugging_face_encoders("multimodal_config")) | {"use_cls_token": draw(st.booleans())},
        "image_codebook_config": draw(hugging_face_codebook_configs()),
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
