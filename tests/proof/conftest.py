"""What the tests of the proof share: one clean folder and its certificate."""

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.verify import verify_flava_checkpoint


@pytest.fixture(scope="session")
def converted(tiny, tmp_path_factory):
    """The folder of the tiny checkpoint, converted once; not to be written to."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


@pytest.fixture(scope="session")
def certificate(tiny, converted):
    """The certificate of that folder."""
    return verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
