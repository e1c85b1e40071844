"""The acceptance tests make the claims that `verify` makes, whatever the layout of the checkpoint."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flava_port import convert_flava_checkpoint, convert_to_torchmultimodal
from flava_port.acceptance.test_claims import test_your_converted_checkpoint as check_claim
from flava_port.proof.claims import CLAIM_NAMES
from tests.report.certificates import a_certificate, differing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def accepted(tmp_path):
    """``accepted("--flava-checkpoint", P, ...)`` runs tests/acceptance with these options: exit status, outcomes, output.

    Outcomes are the names of the claims that passed, failed or were skipped.
    """

    def run(*options: object) -> tuple[int, dict[str, list[str]], str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "tests/acceptance", *map(str, options)]
        environment = {**os.environ, "PYTEST_ADDOPTS": ""}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        outcomes: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "SKIPPED": []}
        for name, outcome in re.findall(r"test_your_converted_checkpoint\[(.+)\] (PASSED|FAILED|SKIPPED)", ran.stdout):
            outcomes[outcome].append(name)
        assert "test_no_claim_is_left_without_a_test PASSED" in ran.stdout, ran.stdout
        assert sorted(name for names in outcomes.values() for name in names) == sorted(CLAIM_NAMES), ran.stdout
        return ran.returncode, outcomes, ran.stdout

    return run


def test_a_claim_that_fails_prints_the_cause_and_ten_findings_at_most():
    """The cause stands first where another claim shows it."""
    certificate = a_certificate(differing("values", 3), differing("forward", 142))
    for name, first in (("values", "differs     values"), ("forward", "cause: values: ")):
        with pytest.raises(pytest.fail.Exception) as failed:
            check_claim(name, certificate)
        assert failed.value.msg.startswith(first) and failed.value.msg.count("values differ") <= 10
    assert failed.value.msg.endswith("... and 132 more")


@pytest.fixture
def theirs(tiny, tmp_path):
    """The tiny checkpoint in torchmultimodal's layout; its codebook is inside."""
    convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


def test_every_claim_about_an_original_checkpoint_is_proven(accepted, tiny, converted):
    """The claim that only a torchmultimodal checkpoint has is skipped, with the reason."""
    files = "--flava-checkpoint", tiny.checkpoint, "--flava-codebook", tiny.codebook, "--flava-converted", converted
    status, outcomes, output = accepted(*files, "--flava-tokenizer", tiny.vocabulary)
    assert status == 0 and not outcomes["FAILED"], output
    assert outcomes["SKIPPED"] == ["as torchmultimodal"] and "the checkpoint is not torchmultimodal's" in output


@pytest.mark.slow
def test_every_claim_about_a_torchmultimodal_checkpoint_is_proven(accepted, theirs, tiny, tmp_path):
    """None is skipped: the checkpoint holds its codebook, and is compared with its own code too."""
    convert_flava_checkpoint(theirs, None, tmp_path / "hf", tokenizer=tiny.vocabulary)
    files = "--flava-checkpoint", theirs, "--flava-converted", tmp_path / "hf", "--flava-tokenizer", tiny.vocabulary
    status, outcomes, output = accepted(*files)
    assert status == 0 and outcomes["PASSED"] == [*CLAIM_NAMES], output


@pytest.mark.slow
def test_every_claim_about_a_folder_that_was_converted_on_is_proven(accepted, converted, tiny, tmp_path):
    """A folder of transformers' as the checkpoint, with the layout named as for the command."""
    convert_flava_checkpoint(converted, None, tmp_path / "again", layout="hf", tokenizer=tiny.vocabulary)
    files = "--flava-checkpoint", converted, "--flava-layout", "hf", "--flava-converted", tmp_path / "again"
    status, outcomes, output = accepted(*files, "--flava-tokenizer", tiny.vocabulary)
    assert status == 0 and outcomes["SKIPPED"] == ["as torchmultimodal"], output


@pytest.mark.slow
def test_the_claim_that_differs_fails_and_no_other(accepted, theirs, tmp_path):
    """A head in which torchmultimodal's epsilon decides: transformers computes something else with the same weights."""
    state = torch.load(theirs)
    for part in ("weight", "bias"):
        state[f"loss.mlm_loss.cls.dense.{part}"] *= 1e-3
    torch.save(state, theirs)
    convert_flava_checkpoint(theirs, None, tmp_path / "hf")
    status, outcomes, output = accepted("--flava-checkpoint", theirs, "--flava-converted", tmp_path / "hf")
    assert status == 1 and outcomes["FAILED"] == ["as torchmultimodal"], output
    assert outcomes["SKIPPED"] == ["tokens", "end to end"] and "there is no tokenizer in the folder" in output
    assert "texts, masked, with labels: mlm loss: " in output
