"""Every key of the grammar is renamed or dropped on purpose, and lands where the installed transformers expects it."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig, FlavaConfig
from flava_port.original.flava import Flava
from flava_port.rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from flava_port.target.keys import POSITION_IDS
from flava_port.target.known import built_shapes
from flava_port.target.parts import CODEBOOK_PART
from tests.builders import TINY
from tests.rules.reports import assert_all
from tests.strategies import (
    EMBEDDINGS,
    ENCODERS,
    codebook_keys,
    every_original_key,
    fixed_keys,
    layer_keys,
    source_keys,
)

SECOND_COPIES = {f"{encoder}.embeddings.{part}" for encoder, parts in EMBEDDINGS.items() for part in parts}


@pytest.fixture(scope="module")
def grammar() -> tuple[str, ...]:
    return every_original_key()


def test_every_key_of_the_grammar_is_renamed_or_dropped_on_purpose(grammar):
    """No key passes through unchanged, whatever the number of its layer."""
    assert_all(FLAVA, grammar, "renamed or dropped", lambda key: FLAVA.rename(key) != key)


def test_what_is_dropped_is_exactly_the_second_copies_of_the_embeddings(grammar):
    """A key is dropped exactly if it is a second copy of an embedding."""
    assert_all(
        FLAVA,
        grammar,
        "dropped exactly where it is a second copy",
        lambda k: (FLAVA.rename(k) is None) == (k in SECOND_COPIES),
    )


def test_the_kept_copy_of_every_dropped_key_is_in_the_grammar(grammar):
    """The copy that a dropped key names is a key of the grammar, and is not dropped itself."""
    keys = set(grammar)

    def kept(key: str) -> bool:
        dropped = FLAVA.trace(key).dropped
        return dropped is None or (dropped.kept_key(key) in keys and FLAVA.rename(dropped.kept_key(key)) is not None)

    assert_all(FLAVA, grammar, "kept under another key", kept)


def test_distinct_keys_of_the_grammar_never_meet_in_one_target(grammar):
    """No two of all 48,000 keys become one target."""
    targets = Counter(map(FLAVA.rename, grammar))
    assert_all(FLAVA, grammar, "alone in its target", lambda key: FLAVA.rename(key) is None or targets[FLAVA.rename(key)] == 1)


def test_distinct_keys_of_the_codebook_never_meet_in_one_target():
    """No two keys of the codebook become one target."""
    targets = Counter(map(CODEBOOK.rename, codebook_keys()))
    assert_all(CODEBOOK, codebook_keys(), "alone in its target", lambda key: targets[CODEBOOK.rename(key)] == 1)


@given(source_keys())
def test_a_layers_number_does_not_change_what_the_rules_do(key):
    """A key of layer 123 becomes what the key of layer 7 becomes, but for the number."""
    names = key.split(".")
    numbers = [name for name in names if name.isdigit()]
    elsewhere = ".".join("7" if name.isdigit() else name for name in names)
    for number in numbers:
        assert FLAVA.rename(elsewhere).replace(".layer.7.", f".layer.{number}.") == FLAVA.rename(key), key


def layer_counts():
    return st.tuples(*[st.integers(1, 4)] * 3)


def with_layers(counts) -> FlavaConfig:
    image, text, multimodal = (
        replace(part, num_hidden_layers=n) for part, n in zip((TINY.image_config, TINY.text_config, TINY.multimodal_config), counts)
    )
    return replace(TINY, image_config=image, text_config=text, multimodal_config=multimodal)


@given(layer_counts())
def test_the_grammar_is_what_the_original_model_has(counts):
    """The tests' grammar and the reference model have the same keys, whatever the number of layers."""
    with torch.device("meta"):
        model = set(Flava(with_layers(counts)).state_dict())
    ours = {*fixed_keys(), *(key for e, n in zip(ENCODERS, counts) for i in range(n) for key in layer_keys(e, i))}
    assert ours == model


@settings(max_examples=15)  # each builds a whole model of transformers
@given(layer_counts())
def test_the_targets_are_the_installed_transformers_keys(counts):
    """The renamed grammar is the key set of FlavaForPreTraining, but for position_ids and the codebook."""
    parts = zip(("image_config", "text_config", "multimodal_config"), counts)
    config = {name: {"num_hidden_layers": n, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8} for name, n in parts}
    expected = {k for k in built_shapes({**config, "hidden_size": 8}) if not k.startswith(CODEBOOK_PREFIX)}
    keys = [*fixed_keys(), *(key for e, n in zip(ENCODERS, counts) for i in range(n) for key in layer_keys(e, i))]
    assert_all(
        FLAVA,
        keys,
        "a key that the installed transformers expects",
        lambda k: FLAVA.rename(k) in {*expected, None, POSITION_IDS},
    )
    assert expected <= {FLAVA.rename(key) for key in keys}


def test_the_codebooks_targets_are_the_installed_transformers_keys():
    """The renamed keys of the reference encoder are those of FlavaImageCodebook, and the grammar contains them."""
    with torch.device("meta"):
        keys = list(DalleEncoder(CodebookConfig(hidden_size=8)).state_dict())
    shapes = built_shapes({"image_codebook_config": {"hidden_size": 8}}, CODEBOOK_PART)
    expected = {key.removeprefix(CODEBOOK_PREFIX) for key in shapes}
    assert_all(CODEBOOK, keys, "a key that the installed transformers expects", lambda key: CODEBOOK.rename(key) in expected)
    assert len(keys) == len(expected)
    assert set(keys) <= set(codebook_keys())
