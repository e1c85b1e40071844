"""The command: a short table, a certificate, and an exit status that matches the verdict."""

import json

import pytest

from flava_port import convert_flava_checkpoint
from tests.proof.faults import FAULTS, plant


@pytest.fixture
def files(tiny, tmp_path):
    """Flags for a clean conversion."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "clean")
    return ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", tmp_path / "clean"]


def test_a_proven_folder_exits_0_with_a_certificate(flava_port, files, tmp_path):
    """Versions, digests of both sides, what was compared, errors and tolerances, the verdict."""
    ran = flava_port("verify", *files, "--json", tmp_path / "certificate.json")
    assert ran.status == 0 and ran.out.rstrip().endswith("verdict: proven")
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["verdict"] == "proven" and {"transformers", "torch"} <= set(certificate["versions"])
    assert {"flava.pt", "encoder.pkl", "flava.logit_scale"} <= set(certificate["digests"])
    measured = [m for claim in certificate["claims"] for m in claim["measured"]]
    assert len(measured) > 100 and all(m["error"] <= m["tolerance"] for m in measured)


def test_a_difference_exits_1_and_names_the_culprit_in_both_layouts(flava_port, files, tiny, tmp_path):
    """With what it looks like."""
    plant(FAULTS[1], tmp_path / "clean", tmp_path / "faulty")
    ran = flava_port("verify", *files[:4], "--converted_path", tmp_path / "faulty", "--weights-only")
    assert ran.status == 1 and "verdict: differs" in ran.out
    assert "flava.text_model.encoder.layer.1.attention.attention.query.weight: values differ" in ran.out
    assert "  from text_encoder.module.encoder.layer.1.attention.attention.query.weight" in ran.out
    assert "  looks like flava.text_model.encoder.layer.1.attention.attention.key.weight's" in ran.out


def test_what_was_not_asked_for_is_not_claimed(flava_port, files):
    """The verdict of --weights-only says what it is about."""
    ran = flava_port("verify", *files, "--weights-only")
    assert ran.status == 0 and "forward" not in ran.out
    assert "proven (of the weights; the computation was not verified)" in ran.out


@pytest.mark.parametrize("broken", ["checkpoint_path", "codebook_path", "converted_path"])
def test_a_side_that_cannot_be_read_exits_2(flava_port, files, tmp_path, broken):
    """One message, naming it."""
    ran = flava_port("verify", *files, f"--{broken}", tmp_path / "nowhere")
    assert ran.status == 2 and "nowhere" in ran.err and ran.out == ""


def test_converting_with_verify_proves_the_computation_too(flava_port, files, tmp_path):
    """flava-port convert --verify ends with the table."""
    out = ["--pytorch_dump_folder_path", tmp_path / "out", "--verify"]
    ran = flava_port("convert", *files[:4], *out)
    assert ran.status == 0 and "gradients" in ran.out and ran.out.rstrip().endswith("verdict: proven")
