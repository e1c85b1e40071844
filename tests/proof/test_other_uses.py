"""The converted model computes what the original does in other uses too: training, labels from the codebook, features alone."""

import math

import pytest
import torch

from flava_port.original.codebook import DalleEncoder
from flava_port.original.flava import Flava
from flava_port.proof.forward import relative_error, run_converted, run_original
from flava_port.proof.scenarios import scenarios
from tests.builders import from_pretrained, tiny_codebook, tiny_state_dict

EXACT = 1e-10  # float64 on a model of three layers; the smallest planted fault moves these outputs by 1e-6


@pytest.fixture
def models(converted):
    """The original and the converted model, in float64."""
    return Flava.from_state_dict(tiny_state_dict()).double().eval(), from_pretrained(converted).double()


@pytest.fixture(scope="module")
def pairs():
    """Masked pairs of images and texts, with labels."""
    return scenarios(Flava.from_state_dict(tiny_state_dict()))[0].to(torch.float64)


@pytest.mark.parametrize(("scale", "clamped"), [(9.0, math.log(100)), (-2.0, 0.0), (3.0, 3.0)])
def test_training_keeps_the_scale_between_1_and_100_as_the_authors_do(models, pairs, scale, clamped):
    """torchmultimodal's contrastive loss clamps its logarithm to [0, log 100] (modules/losses/flava.py)."""
    _, theirs = models
    theirs.flava.logit_scale.data.fill_(scale)
    run_converted(theirs.train(), pairs)
    assert theirs.flava.logit_scale.item() == pytest.approx(clamped, abs=1e-4)


def worst(actual, expected) -> float:
    """The largest relative error of all outputs."""
    return max(relative_error(actual[name], value) for name, value in expected.items())


@pytest.mark.parametrize("scale", [9.0, -2.0])
def test_evaluation_leaves_the_scale_as_the_checkpoint_has_it(models, pairs, scale):
    """A scale outside of the bounds is computed with and kept."""
    ours, theirs = models
    ours.heads.cmd.clip_head.logit_scale.data.fill_(scale)
    theirs.flava.logit_scale.data.fill_(scale)
    with torch.no_grad():
        assert worst(run_converted(theirs, pairs), run_original(ours, pairs)) < EXACT
    assert theirs.flava.logit_scale.item() == scale


def test_training_computes_what_evaluation_does(models, pairs):
    """FLAVA has no dropout, and this scale lies within the bounds."""
    ours, theirs = models
    with torch.no_grad():
        assert worst(run_converted(theirs.train(), pairs), run_original(ours, pairs)) < EXACT


def test_without_labels_the_codebook_makes_them(models, pairs):
    """The masked-image loss is the one with the original codebook's indices as labels."""
    ours, theirs = models
    codebook = DalleEncoder.from_state_dict(tiny_codebook()).double()
    pixels = 4 * torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = codebook.codebook_indices(pixels)
    images = {"pixel_values": pairs.inputs["pixel_values"], "bool_masked_pos": pairs.inputs["bool_masked_pos"]}
    assert labels.unique().numel() > 2
    with torch.no_grad():
        expected = ours(**images, mim_labels=labels).mim_loss
        actual = theirs(**images, codebook_pixel_values=pixels, return_loss=True).loss_info.mim
    assert relative_error(actual, expected) < EXACT


def test_features_are_the_projected_states_of_the_original(converted, pairs):
    """`get_image_features` and `get_text_features` of a bare `FlavaModel` loaded from the same folder give them."""
    import transformers

    theirs = transformers.FlavaModel.from_pretrained(converted).double().eval()
    ours = Flava.from_state_dict(tiny_state_dict()).double().eval()
    texts = {name: pairs.inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        images = theirs.get_image_features(pixel_values=pairs.inputs["pixel_values"])
        words = theirs.get_text_features(**texts)
        expected_images = ours.image_projection(ours.encode_image(pairs.inputs["pixel_values"]).last_hidden_state)
        expected_words = ours.text_projection(ours.encode_text(**texts).last_hidden_state)
    assert relative_error(getattr(images, "pooler_output", images), expected_images) < EXACT
    assert relative_error(getattr(words, "pooler_output", words), expected_words) < EXACT
