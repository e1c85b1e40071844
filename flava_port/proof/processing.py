"""The evidence of the claims about the folder's processor: what it makes of images and of texts, and where that leads."""

from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from .certificate import Claim, NothingToJudge
from .computation import Computation
from .judge import OVERFLOWS
from .processors import need_pillow
from .tokens import TextEvidence, judge_tokens

if TYPE_CHECKING:  # imports Pillow, which may not be installed
    from .images import ImageEvidence


class Processing:
    """Each public method that takes a claim judges it. ``tokenizer`` is the original's, where it was given."""

    def __init__(self, computation: Computation, tokenizer: str | Path | None) -> None:
        self.computation, self.sides, self.tokenizer = computation, computation.sides, tokenizer

    @cached_property
    def _images(self) -> "ImageEvidence":
        need_pillow()
        from .images import ImageEvidence

        return ImageEvidence(self.sides.folder, self.sides.config)

    @cached_property
    def _texts(self) -> TextEvidence:
        return TextEvidence(self.sides.folder, self.sides.config, self.tokenizer)

    def pixels(self, claim: Claim) -> None:
        """What the encoder gets of an image is what the original's gets."""
        images = self._images
        from .images import judge_pixels

        judge_pixels(images, claim)

    def codebook_pixels(self, claim: Claim) -> None:
        """What the codebook gets of an image is what the original's gets, but for what is stated."""
        images = self._images
        from .images import judge_codebook_pixels

        judge_codebook_pixels(images, self.sides.codebook, claim)

    def tokens(self, claim: Claim) -> None:
        """A text's numbers are the original's."""
        judge_tokens(self._texts, claim)

    def end_to_end(self, claim: Claim) -> None:
        """From an image file and a sentence both sides come to the same logits."""
        texts, _ = self._texts, self._images
        from .end_to_end import judge_end_to_end, run_end_to_end

        own = self.computation.results().own  # what stops them stops this too
        if not isfinite(own.bounds.tolerance):
            raise NothingToJudge(OVERFLOWS)
        judge_end_to_end(run_end_to_end(self.sides, texts.original, texts.length), own, claim)
