"""`flava-port verify` proves folders of torchmultimodal checkpoints, and says how far transformers lies from torchmultimodal's own code."""

import pytest
import torch

from flava_port import convert_flava_checkpoint
from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof.faults import FAULTS, plant
from tests.rules.grammar import first_release, tiny_torchmultimodal

pytestmark = pytest.mark.peers


@pytest.fixture
def theirs(tiny, tmp_path):
    """Converts a state dict of theirs and verifies it: `theirs(state, **options)` gives the certificate."""

    def run(state=None, **options):
        torch.save(state or tiny_torchmultimodal(), tmp_path / "theirs.pt")
        convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "hf", force=True, tokenizer=tiny.vocabulary)
        return verify_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "hf", tokenizer=tiny.vocabulary, **options)

    return run


def claims(certificate):
    return {claim.name: claim for claim in certificate.claims}


def test_a_converted_torchmultimodal_checkpoint_is_proven_in_every_part(theirs):
    """The heads' other epsilon moves the losses by little, and the report says by how much."""
    certificate = theirs()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}, certificate.table()
    own = claims(certificate)["as torchmultimodal"]
    assert "whose heads have epsilon 1e-05" in own.summary and len(own.measured) == 6
    assert 1e-7 < max(measured.error for measured in own.measured) < own.measured[0].tolerance == 1e-4


def test_older_names_are_proven_as_well(theirs):
    """torchmultimodal's names of 2022 are read too."""
    certificate = theirs(tiny_torchmultimodal(first_release), weights_only=True)
    assert certificate.verdict is Verdict.PROVEN, certificate.table()


def test_with_the_encoders_epsilon_in_the_heads_nothing_differs(theirs):
    """torchmultimodal then computes what transformers does, but for rounding."""
    own = claims(theirs(head_layer_norm_eps=1e-12))["as torchmultimodal"]
    assert own.verdict is Verdict.PROVEN and max(measured.error for measured in own.measured) < 1e-12


def test_heads_in_which_the_epsilon_decides_are_refused(theirs):
    """In a head whose norm gets nearly nothing, the two epsilons lead to very different losses."""
    state = tiny_torchmultimodal()
    for part in ("weight", "bias"):
        state[f"loss.mlm_loss.cls.dense.{part}"] = state[f"loss.mlm_loss.cls.dense.{part}"] * 1e-3
    certificate = theirs(state)
    own = claims(certificate)["as torchmultimodal"]
    assert own.verdict is Verdict.DIFFERS and certificate.exit_status == 1
    assert any("mlm loss" in finding.key for finding in own.findings)
    others = {claim.verdict for claim in certificate.claims if claim is not own}
    assert others == {Verdict.PROVEN}, certificate.table()


def test_a_scale_outside_of_their_clamp_is_found(theirs):
    """torchmultimodal computes with 4.6052, transformers 5 with the value as it is."""
    state = tiny_torchmultimodal()
    state["loss.contrastive_loss.logit_scale"] = torch.tensor(8.0)
    certificate = theirs(state)
    assert certificate.verdict is Verdict.DIFFERS
    assert "global_contrastive loss" in certificate.table()


@pytest.mark.parametrize("fault", FAULTS[:3], ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_by_torchmultimodals_key(theirs, tmp_path, fault):
    """Findings name the keys of the file that was converted."""
    assert theirs(weights_only=True).verdict is Verdict.PROVEN
    plant(fault, tmp_path / "hf", tmp_path / "faulty")
    certificate = verify_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "faulty", weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and fault.culprit in certificate.table()
    assert any(
        line.strip().startswith(("from model.", "from loss.", "from image_codebook.encoder.")) for line in certificate.table().splitlines()
    )


@pytest.mark.slow
def test_one_converted_without_its_codebook_is_proven_where_that_is_said(run_command, tmp_path):
    """`convert --no-codebook --verify` and `verify --no-codebook` prove it; without the option, the codebook is missing."""
    torch.save(tiny_torchmultimodal(), tmp_path / "theirs.pt")
    files = ["--checkpoint_path", tmp_path / "theirs.pt"]
    ran = run_command("convert", *files, "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "hf", "--verify")
    assert ran.status == 0, ran.out
    files += ["--converted_path", tmp_path / "hf", "--weights-only"]
    assert run_command("verify", *files, "--no-codebook").status == 0
    assert run_command("verify", *files).status == 1
