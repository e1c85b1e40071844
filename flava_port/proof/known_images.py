"""What a processor's pixels may be: the original's own, and the ways in which transformers is known to make others.

Pixels are compared in levels, the 256 values of a byte.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor

from ..original.preprocessing import CLIP_DEVIATION, LAPLACE_EPSILON, evaluation_views, map_pixels, normalised, to_rgb, unit_pixels
from .examples import Picture, on_white

# Divided by 255, less the mean, by the deviation: four roundings in float32, of values up to 4.
ARITHMETIC = 16 * 255 * torch.finfo(torch.float32).eps
# A resize rounds to whole levels after each of its two passes. Where backends round otherwise, one level of difference
# after the first pass becomes at most 1.25 (bicubic) or 1.55 (Lanczos) in the second, the sum of the filter's weights, and
# rounding adds at most one: two whole levels.
TWO_PASSES = 2 + ARITHMETIC

LEVELS_OF_PIXELS = 255 * torch.tensor(CLIP_DEVIATION)[:, None, None]
LEVELS_OF_CODEBOOK_PIXELS = torch.tensor(255 / (1 - 2 * LAPLACE_EPSILON))

ON_WHITE = "transparency laid on white, which the original drops"
FROM_THE_IMAGE = "resized from the image, where the original resizes what its encoder gets"
BICUBIC = "by bicubic, where the backend has no Lanczos"


@dataclass(frozen=True)
class Known:
    """Pixels that a processor may make: by which difference, empty for the original's own; and whether they were resized."""

    difference: str
    pixels: Tensor
    is_resized: bool


def known_pixels(picture: Picture, size: int) -> Iterator[Known]:
    """What the encoder's pixels may be, the original's own first."""
    for difference, source in _sources(picture).items():
        for view in _resized(source, size, Image.Resampling.BICUBIC):
            yield Known(difference, normalised(unit_pixels(view)), source.size != (size, size))


def known_codebook_pixels(picture: Picture, size: int, codebook_size: int, *, by_torchvision: bool) -> Iterator[Known]:
    """What the codebook's pixels may be, the original's own first."""

    def known(difference: str, source: Image.Image, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Iterator[Known]:
        for view in _resized(source, codebook_size, resampling):
            yield Known(difference, map_pixels(unit_pixels(view)), True)

    yield from known("", evaluation_views(picture.image, size, codebook_size).encoder)
    for difference, source in _sources(picture).items():
        yield from known(difference or FROM_THE_IMAGE, source)
        if by_torchvision and _lacks_lanczos():
            yield from known(BICUBIC, source, Image.Resampling.BICUBIC)


def _sources(picture: Picture) -> Mapping[str, Image.Image]:
    return {"": to_rgb(picture.image)} | ({ON_WHITE: on_white(picture.image)} if picture.has_transparency else {})


def _resized(image: Image.Image, size: int, resampling: Image.Resampling) -> Iterator[Image.Image]:
    """The image resized by Pillow; and with its two passes in either order, which Pillow chooses by the cost."""
    yield image.resize((size, size), resampling)
    for first_pass in ((size, image.height), (image.width, size)):
        yield image.resize(first_pass, resampling).resize((size, size), resampling)


def _lacks_lanczos() -> bool:
    """Whether torchvision's backend resizes by bicubic where Lanczos is asked for, as it did before 0.27."""
    return Version(metadata.version("torchvision")) < Version("0.27")
