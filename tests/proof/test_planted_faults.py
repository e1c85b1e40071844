"""Every fault planted in a converted folder is caught, and its culprit named."""

import json
import shutil

import pytest

from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof.faults import FAULTS, Fault, plant


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_weights_and_named(fault: Fault, converted, tiny, tmp_path):
    """The verdict is that the folder differs, and the report names the culprit and what it looks like."""
    plant(fault, converted, tmp_path / "faulty")
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "faulty", weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS, certificate.table()
    assert fault.culprit in certificate.table() and fault.looks_like in certificate.table()


def test_another_image_processing_is_named(converted, tiny, tmp_path):
    """preprocessor_config.json is part of what the conversion wrote, and pixels would reach the model changed."""
    folder = tmp_path / "faulty"
    shutil.copytree(converted, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and "preprocessor_config.json: image_mean: [0.5, 0.5, 0.5]" in certificate.table()


def test_the_record_of_another_conversion_says_nothing_of_this_one(converted, tiny, tmp_path):
    """A config that only another conversion's conversion.json states is compared with FLAVA's own."""
    folder = tmp_path / "faulty"
    plant(next(fault for fault in FAULTS if fault.name.startswith("config: text_config.layer_norm_eps")), converted, folder)
    record = json.loads((folder / "conversion.json").read_text())
    record["config"] = json.loads((folder / "config.json").read_text())
    record["sources"]["checkpoint"]["sha256"] = "0" * 64
    (folder / "conversion.json").write_text(json.dumps(record))
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and "text_config.layer_norm_eps: 1e-05, the original's is 1e-12" in certificate.table()
