"""The keywords of `verify_flava_checkpoint` are checked, by type checkers and when it is called."""

from dataclasses import fields

import pytest

from flava_port.verify import ProofKeywords, ProofOptions, verify_flava_checkpoint


def test_the_keywords_that_type_checkers_know_are_the_options():
    """The same names, each with the same type."""
    assert ProofKeywords.__annotations__ == {field.name: field.type for field in fields(ProofOptions)}


def test_a_keyword_that_does_not_exist_is_refused(tiny, converted):
    """A misspelt option is an error, and not a proof of something else."""
    with pytest.raises(TypeError, match="weight_only"):
        verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, weight_only=True)
