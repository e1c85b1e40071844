"""The proof for your own files, a test a claim; see `pytest --help`, "FLAVA checkpoint under test"."""

import pytest

from flava_port.proof.certificate import Verdict
from flava_port.proof.claims import CLAIM_NAMES, ONLY_SOME


@pytest.fixture(scope="session")
def certificate(pytestconfig: pytest.Config):
    """The files, verified once for all claims."""
    from flava_port.verify import verify_flava_checkpoint

    checkpoint, codebook, converted = (pytestconfig.getoption(f"--flava-{name}") for name in ("checkpoint", "codebook", "converted"))
    if not checkpoint or not converted:
        pytest.skip("pass --flava-checkpoint P --flava-codebook C --flava-converted OUT to prove your own files")
    return verify_flava_checkpoint(checkpoint, codebook, converted, pytestconfig.getoption("--flava-config"))


@pytest.mark.parametrize("name", CLAIM_NAMES)
def test_your_converted_checkpoint(name, certificate):
    """The claim is proven, or its culprits are named."""
    claim = next((claim for claim in certificate.claims if claim.name == name), None)
    if claim is None:
        pytest.skip(ONLY_SOME[name] + (": pass --flava-codebook C" if name == "codebook" else ""))
    report = "\n".join([f"{claim.name}: {claim.verdict.value}. {claim.summary}", *map(str, claim.findings)])
    assert claim.verdict is Verdict.PROVEN, report


def test_no_claim_is_left_without_a_test(certificate):
    """Whatever the proof of your files claims is tested above."""
    assert {claim.name for claim in certificate.claims} <= set(CLAIM_NAMES)
