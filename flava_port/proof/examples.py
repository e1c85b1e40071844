"""The images and texts on which a folder's processor is compared with the original's preprocessing, made from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """An image, and what is particular about it."""

    name: str
    image: Image.Image
    has_transparency: bool = False


@cache
def pictures(size: int) -> list[Picture]:
    """Images of many shapes and modes, for an encoder that takes square ones of ``size``."""
    shapes = {
        "as large as the encoder takes": (size, size),
        "landscape": (int(1.5 * size), int(1.1 * size)),
        "portrait": (int(0.8 * size), int(1.7 * size)),
        "a strip": (2 * size, max(4, size // 8)),
        "tiny": (7, 5),
    }
    found = [Picture(name, _photograph(*shape, seed)) for seed, (name, shape) in enumerate(shapes.items())]
    found.append(Picture("enlarged noise", _noise(size // 2 + 1, size // 2 + 3, 7)))
    rgb = _photograph(int(1.3 * size), size + 5, 8)
    found += [Picture(f"mode {mode}", rgb.convert(mode)) for mode in ("L", "P", "CMYK", "1")]
    found.append(Picture("mode I;16", _sixteen_bits(size + 3, size, 9)))
    found.append(Picture("mode RGBA, opaque", rgb.convert("RGBA")))
    return [*found, Picture("mode RGBA, transparent", _noise(size + 9, size, 10, channels=4), has_transparency=True)]


def _photograph(width: int, height: int, seed: int) -> Image.Image:
    """What most photographs are: smooth areas with a little noise."""
    areas = _noise(width // 16 + 2, height // 16 + 2, seed).resize((width, height), Image.Resampling.BILINEAR)
    return Image.blend(areas, _noise(width, height, seed + 100), 0.1)


def _noise(width: int, height: int, seed: int, channels: int = 3) -> Image.Image:
    """Noise over slopes: neighbours differ, and so do the sides."""
    slopes = torch.linspace(0, 90, height)[:, None, None] + torch.linspace(0, 60, width)[None, :, None]
    levels = torch.randint(106, (height, width, channels), generator=torch.Generator().manual_seed(seed)) + slopes
    return Image.frombytes("RGB" if channels == 3 else "RGBA", (width, height), bytes(levels.to(torch.uint8).flatten().tolist()))


def _sixteen_bits(width: int, height: int, seed: int) -> Image.Image:
    levels = torch.randint(1 << 16, (width * height,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Image.frombytes("I;16", (width, height), b"".join(level.to_bytes(2, "little") for level in levels))


def on_white(image: Image.Image) -> Image.Image:
    """The image laid on white where it is transparent."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def texts(words: Sequence[str]) -> list[str]:
    """Texts with everything that a tokenizer treats in its own way, and with words of this vocabulary from all of its length."""
    plain = [word for word in words if word.isalpha()]
    some = plain[:: max(1, len(plain) // 150)]
    return [
        "A photo of a CAT, sleeping.",
        "Café NAÏVE über Ångström",
        "don't: e.g. (well-known) [U.S.] $5+3=8 ~50% #1 `x`",
        "words\tand\n lines\r\n  \u00a0 apart",
        "zero\u200bwidth \x00control \ufffd replaced",
        "日本 中文 hangul 한국",
        "ΟΔΟΣ Привет",
        "a [MASK] of [SEP] and [mask]",
        "x" * 100 + " " + "y" * 101,
        "unbelievableness antidisestablishmentarianism",
        "",
        " ".join(some[:40]),
        " ".join(some),  # too long
        " ".join(word.upper() for word in some[:7]),
    ]


def pairs_of_texts(words: Sequence[str]) -> list[tuple[str, str]]:
    """Texts, two by two, of which one at most is too long: where both are, tokenizers disagree which of them gets an odd last piece."""
    long = " ".join(word for word in words[:2000] if word.isalpha()) + " cat" * 600
    return [("A cat?", "Two dogs."), ("a photo " * 5, "dog"), ("cat", long), (long, "dog")]
