"""An observation has what the installed release makes of images and texts; a change of it is named, with its backend."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from flava_port.releases.drift import changes
from flava_port.releases.processing import observe_processing
from flava_port.releases.small_model import small_config, small_weights, write_folder
from flava_port.target.installed import quiet

pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'flava-port[images]'")

RGB = ("as large as the encoder takes", "landscape", "portrait", "a strip", "tiny", "enlarged noise")


@pytest.fixture
def processing(tmp_path):
    """Observes images and texts again."""

    def observe():
        write_folder(tmp_path / "ours", small_weights())
        with quiet():
            return observe_processing(tmp_path / "ours", small_config())

    return observe


@pytest.mark.parametrize("picture", RGB)
def test_images_are_the_originals(observed, picture):
    """By Pillow's backend, to the last bit but for float32's."""
    run = observed.runs[f"image by pil, {picture}"]
    assert not run.error and run.from_original <= 8 * torch.finfo(torch.float32).eps


def test_texts_are_the_originals(observed):
    """Each, alone and in pairs."""
    runs = [run for name, run in observed.runs.items() if name.startswith("text '") or name.startswith('text "')]
    assert len(runs) == 17 and all(run.from_original == 0 and not run.error for run in runs)


def test_from_files_and_sentences_come_the_originals_logits(observed):
    """By the processor that the release chooses: torchvision's, where it is installed, rounds otherwise."""
    run = observed.runs["from image files and sentences to logits"]
    assert not run.error and run.from_original <= (0.1 if find_spec("torchvision") else 1e-11)
    assert {*run.answers} == {"contrastive_logits_per_image", "contrastive_logits_per_text", "itm_logits"}


def test_observed_again_they_are_the_same(observed, processing):
    """Nothing of chance is in it."""
    assert changes(observed, replace(observed, runs={**observed.runs, **processing()})) == []


def test_another_mean_in_a_release_is_named_with_its_backend(observed, processing, monkeypatch):
    """As a release might change the default, or its arithmetic."""
    with quiet():
        from transformers import AutoImageProcessor
    from_pretrained = AutoImageProcessor.from_pretrained.__func__

    def drifted(cls, *arguments, **options):
        processor = from_pretrained(cls, *arguments, **options)
        processor.image_mean = [0.48, 0.4578275, 0.40821073]
        return processor

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", classmethod(drifted))
    found = [str(change) for change in changes(observed, replace(observed, runs={**observed.runs, **processing()}))]
    assert any("image by pil, landscape: outputs pixel_values by " in line and "as the original" in line for line in found), found
    assert not any("codebook_pixel_values" in line or "text '" in line for line in found)


def test_a_release_that_loads_no_tokenizer_is_observed_as_stopping(processing, monkeypatch):
    """The error is what is observed."""
    with quiet():
        from transformers import AutoTokenizer

    def stop(*_arguments, **_options):
        raise RuntimeError("gone")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", stop)
    runs = processing()
    assert runs["text ''"].error == "RuntimeError: gone" and json.dumps(runs["text ''"].from_original) == "Infinity"
