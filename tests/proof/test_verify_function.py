"""The keywords of `verify_flava_checkpoint` are checked when it is called."""

import pytest

from flava_port.verify import verify_flava_checkpoint


def test_a_keyword_that_does_not_exist_is_refused(tiny, converted):
    """A misspelt option is an error, and not a proof of something else."""
    with pytest.raises(TypeError, match="weight_only"):
        verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, weight_only=True)
