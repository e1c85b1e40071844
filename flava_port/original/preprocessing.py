"""What the original makes of an image: the encoder's pixels, the codebook's pixels and the patches to mask.

Rebuilt from the facts of torchmultimodal's `transforms/flava_transform.py`, by Pillow and torch alone. Its tests hold
it to that package, draw by draw of the random numbers.
"""

import math
import random
from typing import NamedTuple

import torch
from PIL import Image
from torch import Generator, Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LAPLACE_EPSILON = 0.1

ENCODER_SIZE = 224
CODEBOOK_SIZE = 112  # 8 pixels for each of 14 tokens

CROP_AREAS = (0.9, 1.0)  # shares of the image that a training crop covers
CROP_RATIOS = (3 / 4, 4 / 3)  # its width by its height
TRIES = 10


class Views(NamedTuple):
    """One image twice: resized for the encoder, and resized for the codebook."""

    encoder: Image.Image
    codebook: Image.Image


class Pixels(NamedTuple):
    """The float32 tensors that the model takes: [3, size, size] each."""

    encoder: Tensor
    codebook: Tensor


def evaluation_pixels(image: Image.Image, size: int = ENCODER_SIZE, codebook_size: int = CODEBOOK_SIZE) -> Pixels:
    """The pixels of an image in evaluation: the whole image, whatever its shape, made square."""
    return pixels_of(evaluation_views(image, size, codebook_size))


def training_pixels(
    image: Image.Image, size: int = ENCODER_SIZE, codebook_size: int = CODEBOOK_SIZE, generator: Generator | None = None
) -> Pixels:
    """The pixels of an image in training: a random crop of it, made square."""
    return pixels_of(training_views(image, size, codebook_size, generator))


def evaluation_views(image: Image.Image, size: int, codebook_size: int) -> Views:
    """The image resized for the encoder; the codebook's view is made from that one, and not from the image."""
    encoder = to_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
    return Views(encoder, encoder.resize((codebook_size, codebook_size), Image.Resampling.LANCZOS))


def training_views(image: Image.Image, size: int, codebook_size: int, generator: Generator | None = None) -> Views:
    """One random crop of the image, resized twice; here both views are made from the crop."""
    rgb = to_rgb(image)
    crop = rgb.crop(random_box(rgb.width, rgb.height, generator))
    return Views(crop.resize((size, size), Image.Resampling.BICUBIC), crop.resize((codebook_size, codebook_size), Image.Resampling.LANCZOS))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in three channels, by Pillow's own conversion: transparency is dropped, whatever colour lies under it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels_of(views: Views) -> Pixels:
    return Pixels(normalised(unit_pixels(views.encoder)), map_pixels(unit_pixels(views.codebook)))


def unit_pixels(image: Image.Image) -> Tensor:
    """The bytes of an RGB image as float32 from 0 to 1: [3, height, width]."""
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous().float().div(255)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1 with CLIP's mean taken off, by CLIP's standard deviation."""
    mean, deviation = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_DEVIATION)
    return (pixels - mean[:, None, None]) / deviation[:, None, None]


def map_pixels(pixels: Tensor) -> Tensor:
    """Pixels from 0 to 1 moved into [0.1, 0.9], away from the ends that DALL-E's logit-Laplace loss cannot reach."""
    return (1 - 2 * LAPLACE_EPSILON) * pixels + LAPLACE_EPSILON


def random_box(width: int, height: int, generator: Generator | None = None) -> tuple[int, int, int, int]:
    """The crop to train on: left, upper, right, lower. Area and shape are drawn until one fits into the image.

    Where none fits, it is the largest crop at the centre whose shape is allowed.
    """
    narrowest, widest = torch.tensor(CROP_RATIOS).log().tolist()
    for _ in range(TRIES):
        area = width * height * _between(*CROP_AREAS, generator).item()
        ratio = _between(narrowest, widest, generator).exp().item()
        inner_width, inner_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < inner_width <= width and 0 < inner_height <= height:
            upper = int(torch.randint(height - inner_height + 1, (1,), generator=generator))
            left = int(torch.randint(width - inner_width + 1, (1,), generator=generator))
            return left, upper, left + inner_width, upper + inner_height
    inner_width = min(width, round(height * CROP_RATIOS[1]))
    inner_height = min(height, round(width / CROP_RATIOS[0]))
    left, upper = (width - inner_width) // 2, (height - inner_height) // 2
    return left, upper, left + inner_width, upper + inner_height


def _between(low: float, high: float, generator: Generator | None) -> Tensor:
    return torch.empty(1).uniform_(low, high, generator=generator)


class MaskSizes(NamedTuple):
    """How many patches of an image to mask, and in blocks of what size."""

    side: int = 14  # patches in a row and in a column
    patches: int = 75
    block_least: int = 16
    block_most: int | None = None  # None: as many as are still to be masked
    flattest: float = 0.3  # a block's height by its width, or the other way round


def masked_patches(sizes: MaskSizes = MaskSizes(), draw: random.Random | None = None) -> Tensor:
    """Which patches to mask, as 0 and 1: [side, side], int64. Blocks are added until enough is masked or none fits."""
    draw = draw or random.Random()
    mask = torch.zeros(sizes.side, sizes.side, dtype=torch.int64)
    while (left := sizes.patches - int(mask.sum())) > 0:
        if not _add_block(mask, min(left, sizes.block_most or sizes.patches), sizes, draw):
            break
    return mask


def _add_block(mask: Tensor, most: int, sizes: MaskSizes, draw: random.Random) -> bool:
    """Masks one more block that adds between 1 and ``most`` patches; False where ten tries find none."""
    steepest = -math.log(sizes.flattest)
    for _ in range(TRIES):
        area = draw.uniform(sizes.block_least, most)
        ratio = math.exp(draw.uniform(-steepest, steepest))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < sizes.side and width < sizes.side:
            upper, left = draw.randint(0, sizes.side - height), draw.randint(0, sizes.side - width)
            block = mask[upper : upper + height, left : left + width]
            if 0 < block.numel() - int(block.sum()) <= most:
                block.fill_(1)
                return True
    return False
