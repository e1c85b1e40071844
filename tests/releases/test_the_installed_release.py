"""The installed transformers is the one that the tests are for: its FLAVA is a known one."""

import pytest

from tests.cause import CAUSE


def test_flava_is_that_of_a_known_release(request):
    """The one test that fails where transformers changed FLAVA; those that fail for that alone are skipped. See `tests.cause`."""
    cause = request.config.stash[CAUSE]
    if cause and cause.changed:
        pytest.fail(cause.line, pytrace=False)
