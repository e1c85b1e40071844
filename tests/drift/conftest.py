"""An observation of the installed releases, made once."""

import pytest


@pytest.fixture(scope="session")
def observed():
    from flava_port.observation import observe

    return observe()


@pytest.fixture(scope="session")
def file(observed, tmp_path_factory):
    """The same as a file."""
    from flava_port.observation import write

    path = tmp_path_factory.mktemp("observed") / "installed.safetensors"
    write(observed, path)
    return path
