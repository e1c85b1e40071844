"""Tolerances lie between rounding and the weakest planted fault; where they do not, agreement proves nothing."""

import re
from unittest import mock

import pytest
import torch

from flava_port import convert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor, load
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof import bounds
from flava_port.proof.certificate import Verdict
from flava_port.proof.judge import OVERFLOWS
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY, TINY_CODEBOOK, tiny_state_dict


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


def _times(factor, fragment):
    return lambda key, value: value * factor if fragment in key else value


def _with_nan(key, value):
    return value.index_fill(0, torch.tensor([7]), float("nan")) if key.endswith("word_embeddings.weight") else value


OVERFLOWING = {
    "norms at 1e38": _times(1e38, "layernorm"),
    "attention times 1e10": _times(1e10, "attention.attention"),
    "a NaN in the source": _with_nan,
    "a scale of 1e4": _times(1e4, "logit_scale"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (number > 0)) for number, name in enumerate(OVERFLOWING)])
def test_weights_that_overflow_or_are_no_numbers_are_not_accused(name, tiny, tmp_path):
    """Seeded weights show how the model is wired, or the claim is not proven with the reason; nothing differs."""
    state = {key: OVERFLOWING[name](key, value) for key, value in tiny_state_dict().items()}
    torch.save(state, tmp_path / "flava.pt")
    files = tmp_path / "flava.pt", tiny.codebook, tmp_path / "out"
    convert_flava_checkpoint(*files)
    certificate = verify_flava_checkpoint(*files)
    left = [claim for claim in certificate.claims if claim.verdict is not Verdict.PROVEN and not claim.left_open]
    assert certificate.verdict is not Verdict.DIFFERS, certificate.table()
    assert all(OVERFLOWS in claim.summary for claim in left), certificate.table()
