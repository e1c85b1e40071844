"""`verify --device`: the forward pass where it is used, in float32 and bfloat16, held to the original's own rounding there."""

import pytest
import torch

from flava_port import convert_flava_checkpoint
from flava_port.claims import Verdict
from flava_port.errors import InvalidInput
from flava_port.verify import verify_flava_checkpoint
from tests.forward.test_bites import _edited, _set_activation

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run on a machine with one")),
]


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


def _claims(tiny, converted, device) -> dict:
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device=device)
    return {claim.name: claim for claim in certificate.claims if claim.name.startswith(f"{device}, ")}


@pytest.mark.parametrize("device", DEVICES)
def test_a_clean_model_is_as_near_the_exact_result_as_the_original(tiny, converted, device):
    """In both precisions, every output; and bfloat16 is told from float32 by what it rounds."""
    claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.PROVEN] * 2, claims
    single, half = (claims[f"{device}, {name}"].measured for name in ("float32", "bfloat16"))
    assert len(single) == len(half) > 80
    assert 1e-8 < single[0].tolerance < 1e-4 < half[0].tolerance < 0.5


@pytest.mark.parametrize("device", DEVICES)
def test_another_activation_is_caught_in_both_precisions(tiny, converted, device):
    """A gross fault shows in bfloat16 too."""
    with _edited(_set_activation):
        claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.DIFFERS] * 2, claims


def test_a_device_that_is_not_there_is_refused(flava_port, tiny, converted):
    """Before anything is run; exit status 2, with torch's own first line."""
    files = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", converted
    ran = flava_port("verify", *files, "--device", "nowhere")
    assert ran.status == 2 and ran.err.startswith("flava-port: --device nowhere: ") and ran.err.count("\n") == 1
    with pytest.raises(InvalidInput, match="--device meta: "):
        verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device="meta")
