"""Which configs no release of transformers refuses, so that their shapes need not be asked of it."""

import re
from collections.abc import Mapping

from .config import both_sides, with_defaults

# Activations that every release has.
_ACTIVATIONS = frozenset(("gelu", "gelu_new", "quick_gelu", "relu", "silu", "tanh", "sigmoid", "linear"))
# Fields that say where a config comes from; none matters to a shape.
_ABOUT_THE_FILE = frozenset(("architectures", "transformers_version", "model_type"))
_SIZES = re.compile(r".*_size|.*_dim|num_.*|.*_channels|max_position_embeddings")


def is_plain(config: Mapping, defaults: Mapping) -> bool:
    """Whether a release with these defaults builds a model of this config for certain.

    It does if it knows every field, and every value has its default's type and lies in its range.
    """
    sections = {name: value for name, value in defaults.items() if isinstance(value, dict)}
    if not all(isinstance(config.get(name, {}), Mapping) for name in sections):
        return False
    whole = with_defaults(config, defaults)
    top = {name: value for name, value in whole.items() if name not in sections}
    plain = _is_plain_section(top, defaults) and all(_is_plain_section(whole[name], own) for name, own in sections.items())
    return plain and _fits(whole)


def _is_plain_section(values: Mapping, defaults: Mapping) -> bool:
    asked = {name: value for name, value in values.items() if name not in _ABOUT_THE_FILE}
    return all(name in defaults and _is_plain_value(name, value, defaults[name]) for name, value in asked.items())


def _is_plain_value(name: str, value: object, default: object) -> bool:
    if name in ("image_size", "patch_size") and isinstance(value, list):
        return len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    if name == "hidden_act":
        return isinstance(value, str) and value in _ACTIVATIONS
    if name == "position_embedding_type":
        return value == default
    return type(value) is type(default) and not (_SIZES.fullmatch(name) and isinstance(value, int) and value <= 0)


def _fits(config: Mapping) -> bool:
    """Whether heads divide the width, the padding token is a word, and a patch fits the image."""
    image, text = config["image_config"], config["text_config"]
    heads_divide = all(own["hidden_size"] % own["num_attention_heads"] == 0 for own in (image, text, config["multimodal_config"]))
    patch_fits = all(patch <= side for patch, side in zip(both_sides(image["patch_size"]), both_sides(image["image_size"])))
    return heads_divide and patch_fits and 0 <= text["pad_token_id"] < text["vocab_size"]
