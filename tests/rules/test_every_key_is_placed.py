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
from flava_port.target.installed import built_shapes
from flava_port.target.keys import POSITION_IDS
from flava_port.target.parts import CODEBOOK_PART as CODEBOOK_PART
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
    """No key passes through untouched, whatever the number of its layer."""
    assert_all(FLAVA, grammar, "renamed or dropped", lambda key: FLAVA.rename(key) != key)


def test_what_is_dropped_is_exactly_the_second_copies_of_the_embeddings(grammar):
    """Nothing else is dropped, and each entry that drops says which copy stays."""
    assert_all(
        FLAVA,
        grammar,
        "dropped exactly where it is a second copy",
        lambda k: (FLAVA.rename(k) is None) == (k in SECOND_COPIES),
    )


def test_the_kept_copy_of_every_dropped_key_is_in_the_grammar(grammar):
    """A dropped key names a copy that exists and is itself not dropped."""
    keys = set(grammar)

    def kept(key: str) -> bool:
        dropped = FLAVA.trace(key).dropped
        return dropped is None or (dropped.kept_key(key) in keys and FLAVA.rename(dropped.kept_key(key)) is not None)

    assert_all(FLAVA, grammar, "kept under another key", kept)


def test_distinct_keys_of_the_grammar_never_meet_in_one_target(grammar):
    """All 48,000 keys at once."""
    targets = Counter(map(FLAVA.rename, grammar))
    assert_all(FLAVA, grammar, "alone in its target", lambda key: FLAVA.rename(key) is None or targets[FLAVA.rename(key)] == 1)


def test_distinct_keys_of_the_codebook_never_meet_in_one_target():
    """The same for the codebook's table."""
    targets = Counter(map(CODEBOOK.rename, codebook_keys()))
    assert_all(CODEBOOK, codebook_keys(), "alone in its target", lambda key: targets[CODEBOOK.rename(key)] == 1)


@given(source_keys())
def test_a_layers_number_does_not_change_what_the_rules_do(key):
    """Layer 123 goes the way of layer 7, with its own number."""
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
    """The grammar of the tests and the keys of the reference model agree, whatever the number of layers."""
    with torch.device("meta"):
        model = set(Flava(with_layers(counts)).state_dict())
    ours = {*fixed_keys(), *(key for e, n in zip(ENCODERS, counts) for i in range(n) for key in layer_keys(e, i))}
    assert ours == model


@settings(max_examples=15)  # each builds a whole model of transformers
@given(layer_counts())
def test_the_targets_are_the_installed_transformers_keys(counts):
    """Renamed, the grammar is the key set of FlavaForPreTraining, position_ids and the codebook apart."""
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
    """Renamed, the reference encoder's keys are those of FlavaImageCodebook, which the grammar contains."""
    with torch.device("meta"):
        keys = list(DalleEncoder(CodebookConfig(hidden_size=8)).state_dict())
    shapes = built_shapes({"image_codebook_config": {"hidden_size": 8}}, CODEBOOK_PART)
    expected = {key.removeprefix(CODEBOOK_PREFIX) for key in shapes}
    assert_all(CODEBOOK, keys, "a key that the installed transformers expects", lambda key: CODEBOOK.rename(key) in expected)
    assert len(keys) == len(expected)
    assert set(keys) <= set(codebook_keys())
