"""A config that a release of transformers may refuse is left to it to judge."""

import json

import pytest
from hypothesis import given

from flava_port.target.config import DEFAULTS
from flava_port.target.epochs import EPOCHS
from flava_port.target.known import known_shapes
from flava_port.target.plain import is_plain
from tests.strategies import hugging_face_configs


@pytest.mark.parametrize(
    ("section", "field", "value"),
    (
        ("text_config", "hidden_size", 770),
        ("text_config", "hidden_size", "768"),
        ("text_config", "hidden_size", 768.0),
        ("text_config", "hidden_size", True),
        ("text_config", "num_hidden_layers", -1),
        ("text_config", "pad_token_id", 30522),
        ("text_config", "pad_token_id", None),
        ("text_config", "hidden_act", "swoosh"),
        ("text_config", "hidden_act", ["gelu"]),
        ("text_config", "pruned_heads", {0: [1]}),
        ("image_config", "image_size", [224]),
        ("image_config", "patch_size", 225),
        ("image_config", "qkv_bias", None),
        ("multimodal_config", "position_embedding_type", "relative_key"),
        ("", "mim_weight", "1"),
        ("", "text_config", None),
    ),
)  # fmt: skip
def test_a_config_that_a_release_may_refuse_is_left_to_it(section, field, value):
    """No shapes are stated for a value out of range or of another type, or for a field that is not FLAVA's."""
    config = json.loads(json.dumps(DEFAULTS))
    (config[section] if section else config)[field] = value
    assert known_shapes(config, EPOCHS[-1]) is None


@given(hugging_face_configs())
def test_configs_of_flavas_own_fields_are_plain_in_every_epoch(config):
    """A config of FLAVA's own fields is one that no known release refuses."""
    assert all(is_plain(config, epoch.defaults) for epoch in EPOCHS)
