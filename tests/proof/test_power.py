"""Every planted fault is caught and its culprit named; a clean folder is not accused."""

import json
import re
import shutil
from unittest import mock

import pytest
import torch

from flava_port import convert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor, load
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof import bounds
from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY, TINY_CODEBOOK
from tests.proof.faults import FAULTS, Fault, plant


@pytest.fixture(scope="module")
def clean(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("clean") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_weights_and_named(fault: Fault, clean, tiny, tmp_path):
    """The verdict is that it differs, and the report names the culprit and what it looks like."""
    plant(fault, clean, tmp_path / "faulty")
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "faulty", weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS, certificate.table()
    assert fault.culprit in certificate.table() and fault.looks_like in certificate.table()


@pytest.fixture(scope="module")
def certificate(clean, tiny):
    """The clean folder's."""
    return verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, clean)


def test_a_clean_folder_is_proven_in_every_part(certificate):
    """Nothing is accused, nothing is left out."""
    assert certificate.verdict is Verdict.PROVEN, certificate.table()
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}


def test_pixels_that_would_reach_the_model_otherwise_are_named(clean, tiny, tmp_path):
    """preprocessor_config.json is part of what the conversion wrote."""
    folder = tmp_path / "faulty"
    shutil.copytree(clean, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and "preprocessor_config.json: image_mean: [0.5, 0.5, 0.5]" in certificate.table()


def test_the_record_of_another_conversion_says_nothing_of_this_one(clean, tiny, tmp_path):
    """A config that only a foreign conversion.json vouches for is compared with FLAVA's own."""
    folder = tmp_path / "faulty"
    plant(next(fault for fault in FAULTS if fault.name.startswith("config: text_config.layer_norm_eps")), clean, folder)
    record = json.loads((folder / "conversion.json").read_text())
    record["config"] = json.loads((folder / "config.json").read_text())
    record["sources"]["checkpoint"]["sha256"] = "0" * 64
    (folder / "conversion.json").write_text(json.dumps(record))
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and "text_config.layer_norm_eps: 1e-05, the original's is 1e-12" in certificate.table()


def test_weights_that_saturate_are_proven_with_seeded_ones_in_their_place(tmp_path):
    """tanh and softmax at their limits hide what lies before them; nothing is accused for it, and nothing is left out."""
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


def test_agreement_counts_for_nothing_where_rounding_would_hide_a_fault(clean, tiny):
    """A tolerance above the weakest planted fault leaves the forward pass unproven, and says which fault."""
    with mock.patch.dict(bounds.MARGIN, {torch.float64: 1e12}):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, clean)
    forward = next(claim for claim in certificate.claims if claim.name == "forward")
    assert forward.verdict is Verdict.NOT_PROVEN and "and stay hidden" in forward.summary
    assert certificate.exit_status == 1


def test_the_report_prints_the_margin_between_rounding_and_the_weakest_fault(certificate):
    """And the certificate has what each planted fault moves."""
    forward = next(claim for claim in certificate.claims if claim.name == "forward")
    assert re.search(r"(image|text|multimodal)_config\.\w+ = \S+ would show [\d,]+ times that", forward.summary)
    assert len(forward.planted) == 6 and min(forward.planted.values()) > forward.measured[0].tolerance
