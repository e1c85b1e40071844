"""The claim from an image file and a sentence to the logits: the folder's processor and model against all that is the original's."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..original.preprocessing import evaluation_pixels
from ..original.wordpiece import PAIR_LENGTH, WordPiece
from ..target.installed import quiet
from .bounds import is_large
from .calls import Recorder
from .certificate import Claim, Finding, Measured, NothingToJudge
from .examples import pictures
from .forward import CODEBOOK_PIXELS, relative_error, run_converted, run_converted_codebook, run_original
from .processors import TEXT_INPUTS, processor_of_both, square_size
from .results import Comparison
from .scenarios import Scenario
from .sides import Sides

SENTENCES = ("A photo of a cat.", "Two dogs, running!", "naïve")
SHORT_PAIR = 24  # tokens, with which the sentence comes to a large model
LOGITS_OF_PAIRS = ("contrastive_logits_per_image", "contrastive_logits_per_text", "itm_logits")


@dataclass(frozen=True)
class EndToEnd:
    """What came out: the folder's logits, their relative errors, and shares of codebook tokens that differ."""

    logits: dict[str, Tensor]
    model: dict[str, float]  # the folder's model against the original's, both on what the folder's processor made
    whole: dict[str, float]  # the folder's processor and model against the original's preprocessing and model
    tokens_of_model: float | None  # None where there is no codebook
    tokens_of_whole: float | None
    blocks: dict[str, float]  # of a large model each block's, in float32, fed what the original's block gets; else empty


@quiet()
@torch.no_grad()
def run_end_to_end(sides: Sides, tokenizer: WordPiece, length: int) -> EndToEnd:
    """Both ways from the same files and sentences, in float64; one model is in memory at a time.

    Raises:
        NothingToJudge: the model takes images that no image file makes.
    """
    channels = sides.config["image_config"]["num_channels"]
    if channels != 3:
        raise NothingToJudge(f"the model takes images of {channels} channels, and the original's preprocessing makes 3")
    ours = sides.original()
    large = is_large(ours.model)
    pairs, dtype = (1, torch.float32) if large else (len(SENTENCES), torch.float64)
    with tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
        images = _read(_files(Path(scratch), sides))[:pairs]
    length = min(length, SHORT_PAIR if large else PAIR_LENGTH)
    made = dict(
        processor_of_both(sides.folder)(
            images=images, text=list(SENTENCES[:pairs]), padding="max_length", truncation=True, max_length=length, return_tensors="pt", return_codebook_pixels=True
        )
    )  # fmt: skip
    own = _original_inputs(images, tokenizer, length, square_size(sides.config))
    pixels = {"the folder's": made.pop("codebook_pixel_values"), "own": own.pop("codebook_pixel_values")}
    cases = [Scenario("the folder's", made).to(torch.float64), Scenario("the original's", own).to(torch.float64)]
    original = Recorder(ours, dtype)
    ours_on_theirs, on_own = (original.run(run_original, case) for case in cases)
    model = sides.converted()
    converted = Recorder(model, dtype, original if large else None)
    theirs = converted.run(run_converted, cases[0])
    found = {}
    if (codebook := sides.codebook()) is not None:
        blocks = Recorder(model, torch.float32)
        labels = blocks.run(run_converted_codebook, Scenario("labels", {CODEBOOK_PIXELS: pixels["the folder's"]}))["codebook indices"]
        found = {name: _share(labels, codebook.codebook_indices(value)) for name, value in pixels.items()}
    return EndToEnd(
        {name: theirs[name] for name in LOGITS_OF_PAIRS},
        {name: relative_error(theirs[name], ours_on_theirs[name]) for name in LOGITS_OF_PAIRS},
        {name: relative_error(theirs[name], on_own[name]) for name in LOGITS_OF_PAIRS},
        found.get("the folder's"),
        found.get("own"),
        {name: max(call.left for call in converted.calls(name)) for name in converted.blocks()} if converted.original else {},
    )


def _files(folder: Path, sides: Sides) -> list[Path]:
    """Image files as people have them: a photograph's format, one without loss, and a grey one."""
    size, _ = square_size(sides.config)
    examples = [picture.image for picture in pictures(size)][1:4]
    paths = [folder / name for name in ("landscape.jpg", "portrait.png", "grey.png")]
    for path, image in zip(paths, [*examples[:2], examples[2].convert("L")]):
        image.save(path)
    return paths


def _read(paths: list[Path]) -> list[Image.Image]:
    """The images as an example of transformers' reads them, in RGB, since releases before 5.0.0 refuse others."""
    return [Image.open(path).convert("RGB") for path in paths]


def _original_inputs(images: list[Image.Image], tokenizer: WordPiece, length: int, sizes: tuple[int, int]) -> dict[str, Tensor]:
    pixels = [evaluation_pixels(image, *sizes) for image in images]
    encoded = [tokenizer.encode(sentence, length=length) for sentence in SENTENCES[: len(images)]]
    return {name: torch.tensor([getattr(one, name) for one in encoded]) for name in TEXT_INPUTS} | {
        "pixel_values": torch.stack([one.encoder for one in pixels]),
        "codebook_pixel_values": torch.stack([one.codebook for one in pixels]),
    }


def _share(labels: Tensor, others: Tensor) -> float:
    """The share of labels that differ."""
    return float((labels != others.reshape(labels.shape)).double().mean())


def judge_end_to_end(found: EndToEnd, own: Comparison, claim: Claim) -> None:
    """The model computes the original's logits and codebook labels from what the processor makes; what that changes is stated."""
    tolerance = own.bounds.tolerance
    claim.measured = [Measured(name, error, tolerance) for name, error in found.model.items()]
    claim.measured += [
        Measured(f"{name}: end to end", error, own.whole_tolerance_of(own.blocks[name]), own.blocks[name].floor)
        for name, error in found.blocks.items()
    ]
    claim.findings = [
        Finding(m.what, "", f"relative error {m.error:.1e} on the same inputs, rounding allows {m.tolerance:.1e}")
        for m in claim.measured
        if m.is_too_large
    ]
    if found.tokens_of_model:
        claim.findings.append(Finding("codebook labels", "", f"{found.tokens_of_model:.2%} differ on the same pixels"))
    worst = max(found.whole.values())
    from_files = f"from files and sentences every logit is the original's, relative error {worst:.1e}"
    if worst > tolerance:
        from_files = f"the processor's pixels move logits by up to {worst:.1e} of the largest"
    labels = "" if found.tokens_of_whole is None else f"; {found.tokens_of_whole:.1%} of codebook labels change with the processor's pixels"
    claim.settle(from_files + labels)
