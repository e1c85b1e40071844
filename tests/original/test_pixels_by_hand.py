"""An image's pixels, its training crop and its mask: what each must be, by plain arithmetic and by Pillow's own resizing."""

import math
import random

import pytest
import torch

from flava_port.original.preprocessing import (
    CROP_AREAS,
    CROP_RATIOS,
    MaskSizes,
    evaluation_pixels,
    masked_patches,
    random_box,
    training_pixels,
)
from tests.original.pictures import MODES, SIZES, Image, picture

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
FLOAT32_STEPS = 4 * torch.finfo(torch.float32).eps  # a quotient, a difference, a quotient: four roundings


@pytest.mark.parametrize("mode", MODES)
def test_an_image_that_has_the_right_size_is_normalised_and_nothing_else(mode):
    """Each level v becomes (v / 255 - mean) / deviation, in the channel's own numbers, whatever the mode of the file."""
    image = picture(8, 8, mode)
    ours = evaluation_pixels(image, size=8, codebook_size=8)
    rgb = image.convert("RGB")
    for row in range(8):
        for column in range(8):
            for channel, level in enumerate(rgb.getpixel((column, row))):
                wanted = (level / 255 - MEAN[channel]) / DEVIATION[channel]
                bound = FLOAT32_STEPS / DEVIATION[channel]
                assert abs(ours.encoder[channel, row, column].item() - wanted) <= bound, (mode, row, column, channel)
                assert abs(ours.codebook[channel, row, column].item() - (0.1 + 0.8 * level / 255)) <= FLOAT32_STEPS


@pytest.mark.parametrize(("width", "height"), SIZES.values(), ids=SIZES)
def test_the_whole_image_is_resized_once_for_the_encoder_and_from_there_for_the_codebook(width, height):
    """Bicubic to 224 by 224, and that by Lanczos to 112 by 112; nothing is cropped off."""
    image = picture(width, height)
    encoder = image.resize((224, 224), Image.Resampling.BICUBIC)
    codebook = encoder.resize((112, 112), Image.Resampling.LANCZOS)
    ours = evaluation_pixels(image)
    assert torch.equal(ours.encoder, evaluation_pixels(encoder).encoder)
    assert torch.equal(ours.codebook, evaluation_pixels(codebook, codebook_size=112, size=112).codebook)


@pytest.mark.parametrize("other", ["the image itself", "another filter"])
def test_a_codebook_view_made_otherwise_is_another(other):
    """So that the test above would see it."""
    image = picture(300, 200)
    view = image if other == "the image itself" else image.resize((224, 224), Image.Resampling.BICUBIC)
    resampling = Image.Resampling.LANCZOS if other == "the image itself" else Image.Resampling.BICUBIC
    wrong = view.resize((112, 112), resampling)
    assert not torch.equal(evaluation_pixels(image).codebook, evaluation_pixels(wrong, codebook_size=112, size=112).codebook)


def test_transparency_is_dropped():
    """A pixel that cannot be seen has the colour that lies under it."""
    hidden, seen = Image.new("RGBA", (4, 4), (10, 20, 30, 0)), Image.new("RGB", (4, 4), (10, 20, 30))
    assert torch.equal(evaluation_pixels(hidden).encoder, evaluation_pixels(seen).encoder)


@pytest.mark.parametrize(("width", "height"), [(300, 260), (260, 300), (64, 64)])
def test_a_training_crop_lies_in_the_image_and_has_an_allowed_area_and_shape(width, height):
    """But for what rounding to whole pixels moves."""
    for seed in range(50):
        left, upper, right, lower = random_box(width, height, torch.Generator().manual_seed(seed))
        assert 0 <= left < right <= width and 0 <= upper < lower <= height
        inner_width, inner_height = right - left, lower - upper
        rounding = (inner_width + inner_height) / 2
        assert CROP_AREAS[0] * width * height - rounding <= inner_width * inner_height <= width * height
        least, most = (inner_width - 0.5) / (inner_height + 0.5), (inner_width + 0.5) / (inner_height - 0.5)
        assert least <= CROP_RATIOS[1] and most >= CROP_RATIOS[0]


@pytest.mark.parametrize(("size", "box"), [((1000, 30), (480, 0, 520, 30)), ((30, 1000), (0, 480, 30, 520))])
def test_where_no_crop_fits_it_is_the_largest_at_the_centre(size, box):
    """A strip has no crop of nine tenths of its area that is at most 4 by 3."""
    assert random_box(*size, torch.Generator().manual_seed(0)) == box


def test_a_training_image_is_one_crop_resized_twice():
    """Both views show the same crop, and the codebook's is made from it and not from the encoder's."""
    image = picture(300, 260)
    crop = image.crop(random_box(300, 260, torch.Generator().manual_seed(7)))
    ours = training_pixels(image, generator=torch.Generator().manual_seed(7))
    assert torch.equal(ours.encoder, evaluation_pixels(crop).encoder)
    lanczos = crop.resize((112, 112), Image.Resampling.LANCZOS)
    assert torch.equal(ours.codebook, evaluation_pixels(lanczos, size=112).codebook)


@pytest.mark.parametrize("sizes", [MaskSizes(), MaskSizes(20, 100, 4, 30), MaskSizes(4, 5, 1)], ids=["FLAVA's", "larger", "tiny"])
def test_a_mask_hides_at_most_what_was_asked_for_in_blocks(sizes):
    """Not one patch too many; mostly as many as asked for; the first block alone covers the least that a block may."""
    counts = []
    for seed in range(30):
        mask = masked_patches(sizes, random.Random(seed))
        assert mask.shape == (sizes.side, sizes.side) and set(mask.flatten().tolist()) <= {0, 1}
        counts.append(int(mask.sum()))
    assert max(counts) == sizes.patches
    rounded = math.floor(math.sqrt(sizes.block_least * sizes.flattest)) * math.floor(math.sqrt(sizes.block_least / sizes.flattest))
    assert min(counts) >= min(rounded, sizes.patches)


def test_a_mask_that_no_block_fits_is_empty():
    """Blocks of 16 patches do not fit into 2 by 2; the search ends."""
    assert not masked_patches(MaskSizes(side=2, patches=3), random.Random(0)).any()
