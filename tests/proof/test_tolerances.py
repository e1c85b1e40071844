"""Tolerances lie between rounding and the weakest planted fault; where they do not, agreement proves nothing."""

import re
from unittest import mock

import torch

from flava_port import convert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor, load
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof import bounds
from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY, TINY_CODEBOOK


def test_the_report_prints_the_margin_between_rounding_and_the_weakest_fault(certificate):
    """The certificate says how far each planted fault moves the outputs."""
    forward = next(claim for claim in certificate.claims if claim.name == "forward")
    assert re.search(r"(image|text|multimodal)_config\.\w+ = \S+ would show [\d,]+ times that", forward.summary)
    assert len(forward.planted) == 6 and min(forward.planted.values()) > forward.measured[0].tolerance


def test_agreement_counts_for_nothing_where_rounding_would_hide_a_fault(converted, tiny):
    """A tolerance above the weakest planted fault leaves the forward pass not proven, and the summary names the fault."""
    with mock.patch.dict(bounds.MARGIN, {torch.float64: 1e12}):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    forward = next(claim for claim in certificate.claims if claim.name == "forward")
    assert forward.verdict is Verdict.NOT_PROVEN and "and stay hidden" in forward.summary
    assert certificate.exit_status == 1


def test_weights_that_saturate_are_proven_with_seeded_ones_in_their_place(tmp_path):
    """tanh and softmax at their limits hide what comes before them: nothing is accused for it, and nothing is left unproven."""
    weights = {
        key: load(value).mul(30) if value.shape and "position_ids" not in key else load(value)
        for key, value in seeded_state_dict(TINY).items()
    }
    write_torch_zip(tmp_path / "flava.pt", {key: MemoryTensor(value) for key, value in weights.items()})
    write_torch_zip(tmp_path / "codes.pt", seeded_codebook(TINY_CODEBOOK))
    files = tmp_path / "flava.pt", tmp_path / "codes.pt"
    convert_flava_checkpoint(*files, tmp_path / "out")
    certificate = verify_flava_checkpoint(*files, tmp_path / "out")
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert "with seeded weights, as the checkpoint's own saturate" in certificate.table()
