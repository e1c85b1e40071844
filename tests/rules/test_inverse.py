"""Renaming a key and renaming it back gives the key, and so does the reverse."""

from hypothesis import given

from flava_port.rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA, source_name
from tests.rules.reports import assert_all
from tests.strategies import codebook_keys, codebook_source_keys, every_original_key, source_keys


def test_forward_then_inverse_is_the_identity_on_the_whole_grammar():
    """Every renamed key of the grammar comes back as it was."""
    keys = [key for key in every_original_key() if FLAVA.rename(key) is not None]
    assert_all(FLAVA, keys, "what comes back from its target", lambda key: FLAVA.source_of(FLAVA.rename(key)) == key)


def test_forward_then_inverse_is_the_identity_on_the_codebook():
    """Every renamed key of the codebook comes back as it was."""
    assert_all(
        CODEBOOK,
        codebook_keys(),
        "what comes back from its target",
        lambda key: CODEBOOK.source_of(CODEBOOK.rename(key)) == key,
    )


@given(source_keys())
def test_inverse_then_forward_is_the_identity(key):
    """The source of a target becomes that target."""
    if (target := FLAVA.rename(key)) is not None:
        assert FLAVA.rename(FLAVA.source_of(target)) == target, key
        assert source_name(target) == key


@given(codebook_source_keys())
def test_inverse_then_forward_is_the_identity_for_the_codebook(key):
    """The source of a codebook's target becomes that target, also under the model's prefix for the codebook."""
    target = CODEBOOK.rename(key)
    assert CODEBOOK.rename(CODEBOOK.source_of(target)) == target, key
    assert source_name(CODEBOOK_PREFIX + target) == key


def test_the_inverse_undoes_whole_names_only():
    """A name that only begins or ends like a target is left as it is."""
    assert FLAVA.source_of("xmlm_head.bias") == "xmlm_head.bias"
    assert FLAVA.source_of("mlm_heads.bias") == "mlm_heads.bias"
    assert FLAVA.source_of("itm_head.pooler.dense.bias") == "heads.cmd.itm_head.pooler.dense.bias"
