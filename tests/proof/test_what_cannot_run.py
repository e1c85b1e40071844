"""A claim whose check could not run is not proven, and says why; the other claims are judged all the same."""

from unittest import mock

import torch

from flava_port import verify
from flava_port.proof.certificate import Verdict
from flava_port.target import installed
from flava_port.verify import verify_flava_checkpoint
from tests.builders import tiny_state_dict
from tests.proof.mutants import edited


def test_a_model_that_does_not_run_is_not_proven(tiny, converted):
    """The exit status is 1 and the table has the error."""

    def broken(*_inputs, **_options):
        raise RuntimeError("no forward today")

    with edited(lambda model: setattr(model, "forward", broken)):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    assert certificate.verdict is Verdict.NOT_PROVEN and certificate.exit_status == 1
    assert "could not run: RuntimeError: no forward today" in certificate.table()


def test_a_transformers_that_does_not_import_is_not_proven(tiny, converted):
    """What can be proven without it is proven."""
    missing = mock.Mock(side_effect=ImportError("no FLAVA in this release"))
    with mock.patch.object(installed, "import_transformers", missing), mock.patch.object(verify, "import_transformers", missing):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    claims = {claim.name: claim for claim in certificate.claims}
    assert claims["values"].verdict is Verdict.PROVEN and certificate.exit_status == 1
    assert claims["forward"].summary == "could not run: ImportError: no FLAVA in this release"


def test_a_checkpoint_that_is_not_whole_is_reported_and_its_computation_not_claimed(tiny, converted, tmp_path):
    """The report names the missing key."""
    state = tiny_state_dict()
    torch.save({key: value for key, value in state.items() if "itm_head.pooler.dense.weight" not in key}, tmp_path / "flava.pt")
    certificate = verify_flava_checkpoint(tmp_path / "flava.pt", tiny.codebook, converted)
    verdicts = {claim.name: claim.verdict for claim in certificate.claims}
    assert verdicts["original"] is Verdict.DIFFERS and verdicts["forward"] is Verdict.NOT_PROVEN
    assert "heads.cmd.itm_head.pooler.dense.weight" in certificate.table() and certificate.exit_status == 1


def test_a_sparse_tensor_in_the_original_leaves_what_needs_it_not_proven(tiny, converted, tmp_path):
    """Each claim that would have to read it names it."""
    state = tiny_state_dict()
    state["image_projection.weight"] = state["image_projection.weight"].to_sparse()
    torch.save(state, tmp_path / "flava.pt")
    certificate = verify_flava_checkpoint(tmp_path / "flava.pt", tiny.codebook, converted)
    claims = {claim.name: claim for claim in certificate.claims}
    assert claims["original"].verdict is Verdict.DIFFERS
    for name in ("shapes, dtypes", "values", "loaded values"):
        assert claims[name].verdict is Verdict.NOT_PROVEN
        assert claims[name].summary == "image_projection.weight is a sparse tensor in the original and cannot be compared"
    assert claims["forward"].verdict is Verdict.NOT_PROVEN
