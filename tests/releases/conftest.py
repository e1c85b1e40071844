"""What the installed releases do, observed once."""

import pytest


@pytest.fixture(scope="session")
def observed():
    from flava_port.releases.observe import observe_in_short

    return observe_in_short()


@pytest.fixture(scope="session")
def observed_widely():
    """All that an observation has, but for what two processes do together: 15 seconds, for slow tests."""
    from flava_port.releases.observe import observe_installed

    return observe_installed()


@pytest.fixture(scope="session")
def file(observed, tmp_path_factory):
    """A file that holds that observation."""
    from flava_port.releases.observation import write

    path = tmp_path_factory.mktemp("observed") / "installed.safetensors"
    write(observed, path)
    return path


@pytest.fixture(scope="session")
def observed_schema():
    """The schema of the installed transformers, observed by itself."""
    from flava_port.target.schema import observe_schema

    return observe_schema()
