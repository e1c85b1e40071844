"""What the tests of the proof share: one clean folder and its certificate."""

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.proof import bounds, matrices, streamed
from flava_port.verify import verify_flava_checkpoint


@pytest.fixture(scope="session")
def converted(tiny, tmp_path_factory):
    """The folder of the tiny checkpoint, converted once; not to be written to."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, tokenizer=tiny.vocabulary)
    return folder


@pytest.fixture(scope="session")
def certificate(tiny, converted):
    """The certificate of that folder."""
    return verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, tokenizer=tiny.vocabulary)


@pytest.fixture
def taken_for_large(monkeypatch):
    """The tiny model counts as a large one, each of its matrices too, and most of them as huge."""
    monkeypatch.setattr(bounds, "LARGE_MODEL_PARAMETERS", 0)
    monkeypatch.setattr(matrices, "_LARGE", 0)
    monkeypatch.setattr(matrices, "_PART", 100)
    monkeypatch.setattr(streamed, "_HUGE", 300)
