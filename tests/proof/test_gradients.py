"""Gradients are compared by themselves: where only they are wrong, only their claim differs."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof.mutants import bend_gradients, edited


@pytest.fixture(params=["small", "large"])
def size(request):
    """A size of model; gradients of a large one are compared in float32, on fewer inputs."""
    if request.param == "large":
        request.getfixturevalue("taken_for_large")


@pytest.mark.usefixtures("size")
def test_only_the_gradients_differ_where_only_they_are_wrong(tiny, converted):
    """Gradients of the layers below the fault differ, each by what the fault adds."""
    with edited(bend_gradients):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, tokenizer=tiny.vocabulary)
    assert certificate.verdict is Verdict.DIFFERS, certificate.table()
    claims = {claim.name: claim for claim in certificate.claims}
    assert {name for name, claim in claims.items() if claim.verdict is not Verdict.PROVEN} == {"gradients"}
    wrong = [measured for measured in claims["gradients"].measured if not measured.error <= measured.tolerance]
    assert all(name in str([m.what for m in wrong]) for name in ("multimodal_model.encoder.layer.0.attention", "text_model", "image_model"))
    assert max(measured.error for measured in wrong) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("size", ["large"], indirect=True)
def test_a_clean_folder_is_proven_whatever_its_size(tiny, converted, size):
    """Every claim about a large model is proven; about a small one, see test_clean_folders.py."""
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, tokenizer=tiny.vocabulary)
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}, certificate.table()


@pytest.mark.usefixtures("taken_for_large")
def test_a_value_that_differs_shows_in_the_block_and_in_its_gradients(tiny, converted, tmp_path):
    """The folder's block computes with the folder's own values, where they stand."""
    folder = shutil.copytree(converted, tmp_path / "out")
    weights = load_file(folder / "model.safetensors")
    weights["mlm_head.transform.dense.weight"][0, 0] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    claims = {
        claim.name: claim for claim in verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, tokenizer=tiny.vocabulary).claims
    }
    for name, what in (("forward", "mlm_head"), ("gradients", "mlm_head.transform.dense.weight")):
        assert what in {measured.what for measured in claims[name].measured if measured.is_too_large}
