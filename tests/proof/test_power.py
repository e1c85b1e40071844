"""Every planted fault is caught and its culprit named; a clean folder is not accused."""

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.claims import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof.faults import FAULTS, Fault, plant


@pytest.fixture(scope="module")
def clean(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("clean") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_weights_and_named(fault: Fault, clean, tiny, tmp_path):
    """The verdict is that it differs, and the report names the culprit and what it looks like."""
    plant(fault, clean, tmp_path / "faulty")
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "faulty", weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS, certificate.table()
    assert fault.culprit in certificate.table() and fault.looks_like in certificate.table()


def test_a_clean_folder_is_proven_in_every_part(clean, tiny):
    """Nothing is accused, nothing is left out."""
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, clean)
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}
