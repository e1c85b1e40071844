"""Pixels, crops and masks are torchmultimodal's own, bit for bit and draw for draw, in evaluation and in training."""

import random
import types

import pytest
import torch

from flava_port.original.preprocessing import MaskSizes, evaluation_pixels, masked_patches, training_pixels
from tests.original.peers import GET_TRANSFORMS
from tests.original.pictures import MODES, SIZES, picture


@pytest.fixture(scope="module")
def theirs() -> types.ModuleType:
    """Meta's public image transforms, which need a real torchvision."""
    try:
        import torchmultimodal.transforms.flava_transform as transforms
    except (ImportError, RuntimeError) as missing:  # RuntimeError: a torchvision that was built for another torch
        pytest.skip(f"torchmultimodal's transforms cannot be imported ({missing}): {GET_TRANSFORMS}")
    return transforms


@pytest.mark.parametrize("is_train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), SIZES.values(), ids=SIZES)
def test_every_pixel_is_theirs(theirs, width, height, mode, is_train):
    """From any size and mode."""
    image = picture(width, height, mode)
    torch.manual_seed(11)
    expected = theirs.FLAVAImageTransform(is_train=is_train)(image)
    actual = training_pixels(image, generator=torch.Generator().manual_seed(11)) if is_train else evaluation_pixels(image)
    assert torch.equal(actual.encoder, expected["image"])
    assert torch.equal(actual.codebook, expected["image_for_codebook"])


@pytest.mark.parametrize(("size", "codebook_size"), [(24, 24), (64, 32), (250, 120)])
def test_every_pixel_is_theirs_at_another_size(theirs, size, codebook_size):
    """FLAVAs that take other images than 224 by 224."""
    image = picture(90, 130)
    expected = theirs.FLAVAImageTransform(is_train=False, encoder_input_size=size, codebook_input_size=codebook_size)(image)
    actual = evaluation_pixels(image, size, codebook_size)
    assert torch.equal(actual.encoder, expected["image"])
    assert torch.equal(actual.codebook, expected["image_for_codebook"])


@pytest.mark.parametrize("sizes", [MaskSizes(), MaskSizes(20, 100, 4, 30), MaskSizes(7, 20, 1), MaskSizes(14, 75, 16, 40, 0.5)])
def test_every_mask_is_theirs(theirs, sizes):
    """The same blocks from the same random numbers."""
    generate = theirs.ImageMaskingGenerator(sizes.side, sizes.patches, sizes.block_least, sizes.block_most, sizes.flattest)
    for seed in range(100):
        random.seed(seed)
        assert torch.equal(masked_patches(sizes, random.Random(seed)), torch.from_numpy(generate()))
