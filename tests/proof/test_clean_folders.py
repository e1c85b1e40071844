"""A folder that was converted right is proven in every part, whatever form its checkpoint has."""

import pytest
import torch

from flava_port.convert import convert_flava_checkpoint
from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.builders import tiny_state_dict


def test_a_clean_folder_is_proven_in_every_part(certificate):
    """No claim differs, and none is left unproven."""
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}


def _without(*fragments: str):
    return lambda state: {key: value for key, value in state.items() if not any(fragment in key for fragment in fragments)}


FORMS = {
    "without position_ids": _without("position_ids"),
    "without second copies of the embeddings": _without("_encoder.embeddings."),
    "without either": _without("position_ids", "_encoder.embeddings."),
    "heads with their decoder's bias alone": _without("predictions.bias"),
    "heads without their decoder's bias": _without("decoder.bias"),
    "in half precision": lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    "in double precision": lambda state: {key: value.double() if value.is_floating_point() else value for key, value in state.items()},
    "nested, each key with a prefix": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
}


# What is proven of these is proven of the others together.
SLOW = (
    "without second copies of the embeddings",
    "without either",
    "heads with their decoder's bias alone",
    "in double precision",
    "nested, each key with a prefix",
)


@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow) if form in SLOW else form for form in FORMS])
def test_every_form_of_a_checkpoint_is_proven(form, tiny, tmp_path):
    """Whatever convert accepts, verify proves."""
    torch.save(FORMS[form](tiny_state_dict()), tmp_path / "flava.pt")
    files = tmp_path / "flava.pt", tiny.codebook, tmp_path / "converted"
    convert_flava_checkpoint(*files, tokenizer=tiny.vocabulary)
    certificate = verify_flava_checkpoint(*files, tokenizer=tiny.vocabulary)
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}, certificate.table()
