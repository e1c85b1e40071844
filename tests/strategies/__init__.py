"""The hypothesis strategies that several rooms share, each from here: keys, state dicts, configs.

What only `tests/files` draws is in its own `strategies.py`.
"""

from tests.strategies.configs import hugging_face_codebook_configs, hugging_face_configs, original_codebook_configs, original_configs
from tests.strategies.keys import (
    CODEBOOK_FRAGMENTS,
    FRAGMENTS,
    Edit,
    codebook_decoy_keys,
    codebook_source_keys,
    decoy_keys,
    edited,
    source_keys,
)
from tests.strategies.original_keys import (
    EMBEDDINGS,
    ENCODERS,
    HEADS,
    MOST_LAYERS,
    WEIGHT_BIAS,
    codebook_keys,
    every_original_key,
    fixed_keys,
    layer_keys,
    original_keys,
)
from tests.strategies.state_dicts import adversarial_state_dicts, original_state_dicts, twin_of, wrapped_state_dicts

__all__ = [
    "CODEBOOK_FRAGMENTS",
    "EMBEDDINGS",
    "ENCODERS",
    "FRAGMENTS",
    "HEADS",
    "MOST_LAYERS",
    "WEIGHT_BIAS",
    "Edit",
    "adversarial_state_dicts",
    "codebook_decoy_keys",
    "codebook_keys",
    "codebook_source_keys",
    "decoy_keys",
    "edited",
    "every_original_key",
    "fixed_keys",
    "hugging_face_codebook_configs",
    "hugging_face_configs",
    "layer_keys",
    "original_codebook_configs",
    "original_configs",
    "original_keys",
    "original_state_dicts",
    "source_keys",
    "twin_of",
    "wrapped_state_dicts",
]
