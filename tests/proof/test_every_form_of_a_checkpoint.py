"""Whatever form of an original checkpoint is converted, verify proves it in every part; one that is not whole it reports."""

import pytest
import torch

from flava_port.convert import convert_flava_checkpoint
from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.builders import tiny_state_dict


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
SLOW = ("without either", "in double precision")


@pytest.mark.parametrize("form", [pytest.param(form, marks=pytest.mark.slow) if form in SLOW else form for form in FORMS])
def test_it_is_proven(form, tiny, tmp_path):
    """Nothing that convert accepts is beyond the proof."""
    torch.save(FORMS[form](tiny_state_dict()), tmp_path / "flava.pt")
    files = tmp_path / "flava.pt", tiny.codebook, tmp_path / "converted"
    convert_flava_checkpoint(*files)
    certificate = verify_flava_checkpoint(*files)
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}, certificate.table()


def test_one_that_is_not_whole_is_reported_and_its_computation_not_claimed(tiny, tmp_path):
    """With the key that is missing."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "converted")
    torch.save(_without("itm_head.pooler.dense.weight")(tiny_state_dict()), tmp_path / "flava.pt")
    certificate = verify_flava_checkpoint(tmp_path / "flava.pt", tiny.codebook, tmp_path / "converted")
    verdicts = {claim.name: claim.verdict for claim in certificate.claims}
    assert verdicts["original"] is Verdict.DIFFERS and verdicts["forward"] is Verdict.NOT_PROVEN
    assert "heads.cmd.itm_head.pooler.dense.weight" in certificate.table() and certificate.exit_status == 1
