"""Every claim about your converted checkpoint, a test each; the options are those of `flava_port.pytest_plugin`."""

import pytest

from ..proof.certificate import Certificate, Verdict, claim_text
from ..proof.claims import CLAIM_NAMES, ONLY_SOME
from ..pytest_plugin import VERIFY_OPTIONS

_FINDINGS_SHOWN = 10


@pytest.fixture(scope="session")
def certificate(pytestconfig: pytest.Config) -> Certificate:
    """The files, verified once for all claims."""
    from ..errors import FlavaPortError
    from ..verify import verify_flava_checkpoint

    files = "checkpoint", "codebook", "converted", "config"
    checkpoint, codebook, converted, config = (pytestconfig.getoption(f"--flava-{name}") for name in files)
    options = {name: pytestconfig.getoption(f"--flava-{name.replace('_', '-')}") for name in VERIFY_OPTIONS}
    if not checkpoint or not converted:
        pytest.skip("pass --flava-checkpoint P --flava-codebook C --flava-converted OUT to prove your own files")
    try:
        return verify_flava_checkpoint(checkpoint, codebook, converted, config, **options)
    except FlavaPortError as error:
        message = str(error)
    return pytest.fail(message, pytrace=False)  # the user's files are at fault, and a traceback of ours would hide it


@pytest.mark.parametrize("name", CLAIM_NAMES)
def test_your_converted_checkpoint(name: str, certificate: Certificate) -> None:
    """The claim is proven, or its culprits are named."""
    claim = next((claim for claim in certificate.claims if claim.name == name), None)
    if claim is None:
        pytest.skip(certificate.not_looked_at or ONLY_SOME[name] + (": pass --flava-codebook C" if name == "codebook" else ""))
    if claim.left_open:
        pytest.skip(claim.summary)
    if claim.verdict is not Verdict.PROVEN:
        cause = [] if claim is certificate.cause and not certificate.doubts else [f"cause: {certificate.why}"]
        pytest.fail("\n".join([*cause, claim_text(claim, _FINDINGS_SHOWN)]), pytrace=False)


def test_no_claim_is_left_without_a_test(certificate: Certificate) -> None:
    """Whatever the proof of your files claims is tested above."""
    assert {claim.name for claim in certificate.claims} <= set(CLAIM_NAMES)
