"""What the installed transformers expects, observed once."""

import pytest


@pytest.fixture(scope="session")
def observed():
    from flava_port.observe import observe

    return observe()
