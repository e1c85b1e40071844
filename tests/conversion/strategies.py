"""Strategies of the conversion tests: tiny FLAVA configs, and files made from them."""

from hypothesis import strategies as st

from flava_port.original import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig

_HEADS = st.integers(1, 3)
_LAYERS = st.integers(1, 3)
_VOCABULARIES = st.integers(5, 40)


@st.composite
def encoder_sizes(draw) -> dict:
    """Sizes of one encoder, such as ``{"hidden_size": 64, "num_hidden_layers": 2, ...}``; heads are 4 to 12 wide."""
    heads = draw(_HEADS)
    return {
        "hidden_size": heads * draw(st.integers(1, 3)) * 4,
        "num_hidden_layers": draw(_LAYERS),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(3, 30)),
    }


@st.composite
def flava_configs(draw) -> FlavaConfig:
    """Tiny FLAVA configs whose three encoders differ in every size they can."""
    patch = draw(st.integers(2, 6))
    return FlavaConfig(
        ImageConfig(
            **draw(encoder_sizes()),
            image_size=patch * draw(st.integers(1, 4)),
            patch_size=patch,
            num_channels=draw(st.integers(1, 4)),
            vocab_size=draw(_VOCABULARIES),
        ),
        TextConfig(
            **draw(encoder_sizes()),
            vocab_size=draw(_VOCABULARIES),
            max_position_embeddings=draw(st.integers(3, 24)),
            type_vocab_size=draw(st.integers(1, 4)),
        ),
        MultimodalConfig(**draw(encoder_sizes())),
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
