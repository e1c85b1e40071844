"""What the installed transformers expects, observed once."""

import pytest


@pytest.fixture(scope="session")
def observed():
    from flava_port.recorder import observe

    return observe()
