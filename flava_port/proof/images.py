"""The claims about images: what the folder's processor makes of them is what the original's preprocessing makes.

Where a backend resizes by another arithmetic, or transformers is known to take another way, the difference is stated with
its size. Everything else that differs is a finding.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor

from ..original.codebook import DalleEncoder
from ..original.preprocessing import MaskSizes, evaluation_pixels, masked_patches
from ..text import count_of
from .certificate import Claim, Finding
from .examples import Picture, pictures
from .known_images import (
    ARITHMETIC,
    LEVELS_OF_CODEBOOK_PIXELS,
    LEVELS_OF_PIXELS,
    TWO_PASSES,
    Known,
    known_codebook_pixels,
    known_pixels,
)
from .processors import PILLOW, Processor, image_processors, square_size

_LARGE_CODEBOOK = 256  # hidden units: as the published one has, which takes a second an image
REFUSED = "refused, which the original converts: image.convert('RGB') before"


@dataclass(frozen=True)
class MadePixels:
    """What one backend makes of one picture: its outputs by name, or the error that it stops with."""

    backend: str
    picture: Picture
    outputs: Mapping[str, Tensor]
    converts: bool  # whether it makes RGB of other modes
    error: str = ""

    @property
    def may_be_refused(self) -> bool:
        """Whether it stops at an image that is not RGB, of which it makes nothing wrong."""
        return bool(self.error) and self.picture.image.mode != "RGB" and not self.converts


@dataclass(frozen=True)
class Judged:
    """Pixels that were compared: as which difference they are known (empty: the original's own; None: unknown), and how far they are."""

    made: MadePixels
    difference: str | None
    levels: float  # from the original's own


class ImageEvidence:
    """A folder's processors, and what they make of the pictures. The config is the original's.

    Raises:
        NothingToJudge: as `image_processors` and `square_size`.
    """

    def __init__(self, folder: Path, config: Mapping) -> None:
        self.size, self.codebook_size = square_size(config)
        self.processors = image_processors(folder)
        self.pictures = pictures(self.size)

    @cached_property
    def made(self) -> list[MadePixels]:
        return [_make(backend, processor, picture) for backend, processor in self.processors.items() for picture in self.pictures]


@cache
def _release_converts() -> bool:
    """Whether the release's own processor on Pillow's backend heeds do_convert_rgb: an image of mode L tells."""
    from PIL import Image

    try:
        transformers.FlavaImageProcessor(do_convert_rgb=True)(Image.new("L", (8, 8)), return_tensors="pt")
    except Exception:  # releases refuse such an image with errors of many types
        return False
    return True


def _make(backend: str, processor: Processor, picture: Picture) -> MadePixels:
    converts = bool(getattr(processor, "do_convert_rgb", False)) and (backend != PILLOW or _release_converts())
    try:
        return MadePixels(backend, picture, processor(picture.image, return_tensors="pt", return_codebook_pixels=True), converts)
    except Exception as error:  # releases refuse images with errors of many types
        return MadePixels(backend, picture, {}, converts, f"{type(error).__name__}: {str(error)[:100]}")


def judge_pixels(evidence: ImageEvidence, claim: Claim) -> None:
    """The encoder's pixels, the masks, and that nothing else is made where nothing else is asked for."""
    judged = [_judge(made, "pixel_values", known_pixels(made.picture, evidence.size), LEVELS_OF_PIXELS) for made in evidence.made]
    claim.findings = [*_findings(judged), *_mask_findings(evidence), *_findings_of_a_plain_call(evidence)]
    claim.settle(_summary(judged))


def judge_codebook_pixels(evidence: ImageEvidence, codebook: Callable[[], DalleEncoder | None], claim: Claim) -> None:
    """The codebook's pixels; and how many of its tokens the known differences change."""
    sizes = evidence.size, evidence.codebook_size
    judged = [
        _judge(
            made,
            "codebook_pixel_values",
            known_codebook_pixels(made.picture, *sizes, by_torchvision=made.backend != PILLOW),
            LEVELS_OF_CODEBOOK_PIXELS,
        )
        for made in evidence.made
    ]
    claim.findings = _findings(judged)
    claim.settle(_summary(judged))
    if not claim.findings and (model := codebook()) is not None and model.config.input_channels == 3:
        claim.summary += _changed_tokens(judged, sizes, model)


def _judge(made: MadePixels, output: str, known: Iterator[Known], levels: Tensor) -> Judged:
    """Finds the first known output that it equals. What a backend other than Pillow's resized may be rounded otherwise."""
    if output not in made.outputs:
        return Judged(made, REFUSED if made.may_be_refused else None, float("inf"))
    from_original = None
    for one in known:
        distance = _distance(made.outputs[output][0], one.pixels, levels)
        from_original = distance if from_original is None else from_original
        if distance <= (TWO_PASSES if one.is_resized and made.backend != PILLOW else ARITHMETIC):
            return Judged(made, one.difference, from_original)
    return Judged(made, None, float("inf") if from_original is None else from_original)


def _distance(pixels: Tensor, wanted: Tensor, levels: Tensor) -> float:
    """The largest difference in levels; infinite for other shapes and for NaN."""
    if pixels.shape != wanted.shape:
        return float("inf")
    largest = float(((pixels.double() - wanted.double()) * levels).abs().max())
    return largest if largest == largest else float("inf")


def _findings(judged: Sequence[Judged]) -> list[Finding]:
    return [
        Finding(f"{one.made.backend}: {one.made.picture.name}", "", one.made.error or f"{one.levels:.3g} levels of 255 from the original's")
        for one in judged
        if one.difference is None
    ]


def _summary(judged: Sequence[Judged]) -> str:
    """How many images are the original's on which backend; and how many differ in each known way, by how much at most."""
    parts = []
    for backend in dict.fromkeys(one.made.backend for one in judged):
        ours = [one for one in judged if one.made.backend == backend]
        groups = {known: [one.levels for one in ours if one.difference == known] for known in dict.fromkeys(one.difference for one in ours)}
        own = groups.pop("", [])
        exactly = "bit for bit" if not any(own) else f"within {max(own):.2g} levels of 255"
        parts.append(f"{backend}: {len(own)} of {count_of(len(ours), 'image')} are the original's {exactly}")
        for known, found in groups.items():
            parts.append(f"{len(found)} {known}" + (f": up to {max(found):.3g} levels apart" if max(found) < float("inf") else ""))
    return "; ".join(parts)


def _mask_findings(evidence: ImageEvidence) -> Iterator[Finding]:
    """Patches that are masked otherwise than the original masks them with the same random numbers."""
    side = evidence.codebook_size // 8
    sizes = MaskSizes(side, 75 * side * side // (14 * 14))
    state = random.getstate()
    try:
        for backend, processor in evidence.processors.items():
            for seed in range(20):
                random.seed(seed)
                mask = processor(evidence.pictures[0].image, return_tensors="pt", return_image_mask=True)["bool_masked_pos"]
                if mask.flatten().tolist() != masked_patches(sizes, random.Random(seed)).flatten().tolist():
                    yield Finding(f"{backend}: bool_masked_pos", "", f"other patches than the original masks, with seed {seed}")
                    break
    finally:
        random.setstate(state)


def _findings_of_a_plain_call(evidence: ImageEvidence) -> Iterator[Finding]:
    for backend, processor in evidence.processors.items():
        made = sorted(processor(evidence.pictures[0].image, return_tensors="pt").keys())
        if made != ["pixel_values"]:
            yield Finding(f"{backend}: a call without options", "", f"makes {', '.join(made)}, where pixel_values belong")


def _changed_tokens(judged: Sequence[Judged], sizes: tuple[int, int], codebook: DalleEncoder) -> str:
    """How many tokens the original's codebook finds otherwise in the pixels of the first backend; a few images are enough."""
    changed = total = 0
    images = judged[: 3 if codebook.config.hidden_size < _LARGE_CODEBOOK else 1]
    for one in images:
        with torch.no_grad():
            ours = codebook.codebook_indices(evaluation_pixels(one.made.picture.image, *sizes).codebook[None])
            theirs = codebook.codebook_indices(one.made.outputs["codebook_pixel_values"].float())
        changed, total = changed + int((ours != theirs).sum()), total + ours.numel()
    return f"; with these pixels {changed} of {total:,} tokens in {count_of(len(images), 'image')} differ"
