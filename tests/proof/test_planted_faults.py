"""Every fault planted in a converted folder is caught, and its culprit named."""

import json
import shutil

import pytest

from flava_port.proof.certificate import Verdict
from flava_port.verify import verify_flava_checkpoint
from tests.proof.faults import FAULTS, Fault, plant


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_weights_and_named(fault: Fault, converted, tiny, tmp_path):
    """The folder differs, or is not proven where nobody knows what it says; the report names the culprit and what it looks like."""
    plant(fault, converted, tmp_path / "faulty")
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "faulty", weights_only=True)
    assert certificate.verdict is fault.verdict, certificate.table()
    assert fault.culprit in certificate.table() and fault.looks_like in certificate.table()


def test_another_image_processing_is_named(converted, tiny, tmp_path):
    """preprocessor_config.json is part of what the conversion wrote, and pixels would reach the model changed."""
    folder = tmp_path / "faulty"
    shutil.copytree(converted, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and "preprocessor_config.json: image_mean: [0.5, 0.5, 0.5]" in certificate.table()
