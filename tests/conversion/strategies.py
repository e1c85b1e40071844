"""Strategies of the conversion tests: tiny FLAVA configs, and files made from them."""

from hypothesis import strategies as st

from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig

_HEADS = st.integers(1, 3)
_LAYERS = st.integers(1, 3)
_VOCABULARIES = st.integers(5, 40)


@st.composite
def encoder_sizes(draw, width: int | None = None) -> dict:
    """Sizes of one encoder, such as ``{"hidden_size": 24, "num_hidden_layers": 2, ...}``; ``width`` fixes the first."""
    heads = draw(_HEADS if width is None else st.sampled_from([n for n in (1, 2, 3) if width % n == 0]))
    return {
        "hidden_size": width or heads * draw(st.integers(1, 3)) * 4,
        "num_hidden_layers": draw(_LAYERS),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(3, 30)),
    }


@st.composite
def flava_configs(draw, one_width: bool = False) -> FlavaConfig:
    """Tiny FLAVA configs whose three encoders differ in every size they can.

    With ``one_width`` all are equally wide: a model that runs needs that, for its MMM heads have the unimodal
    encoders' width and read the multimodal encoder's states.
    """
    patch = draw(st.integers(2, 6))
    width = draw(st.sampled_from([12, 24, 36])) if one_width else None
    return FlavaConfig(
        ImageConfig(
            **draw(encoder_sizes(width)),
            image_size=patch * draw(st.integers(1, 4)),
            patch_size=patch,
            num_channels=draw(st.integers(1, 4)),
            vocab_size=draw(_VOCABULARIES),
        ),
        TextConfig(
            **draw(encoder_sizes(width)),
            vocab_size=draw(_VOCABULARIES),
            max_position_embeddings=draw(st.integers(3, 24)),
            type_vocab_size=draw(st.integers(1, 4)),
        ),
        MultimodalConfig(**draw(encoder_sizes(width))),
        projection_dim=draw(st.integers(2, 12)),
    )


def codebook_configs() -> st.SearchStrategy[CodebookConfig]:
    """Tiny codebooks of four groups, such as ``CodebookConfig(num_blocks_per_group=1, hidden_size=4, vocab_size=9)``."""
    return st.builds(
        CodebookConfig,
        num_groups=st.just(4),
        num_blocks_per_group=st.integers(1, 2),
        hidden_size=st.sampled_from([4, 8]),
        vocab_size=_VOCABULARIES,
        input_channels=st.integers(1, 3),
    )
