"""What the installed transformers makes of images and texts, by backend, and what comes of it in the small model."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files.staging import write_files
from ..files.vocabulary import Vocabulary
from ..original.seeded import made_up_words, seeded_codebook, seeded_state_dict
from ..original.wordpiece import WordPiece
from ..proof.examples import pairs_of_texts, texts
from ..proof.forward import relative_error
from ..proof.processors import PILLOW, TEXT_INPUTS, TORCHVISION, image_processors, square_size, tokenizers
from ..proof.sides import Sides
from ..target.parts import WHOLE
from ..target.processor import processor_files
from ..target.tokenizer import ChosenTokenizer
from .circumstances import SMALL_CODEBOOK, SMALL_MODEL
from .observation import Run

if TYPE_CHECKING:
    from ..proof.examples import Picture


Answers = tuple[dict[str, Tensor], float]  # by name, and their distance from the original's


def observe_processing(
    folder: Path, config: Mapping[str, Any], sketch: Callable[[Tensor], Tensor], said: Callable[[Exception], str]
) -> dict[str, Run]:
    """Every image by every backend, every text, and logits from files and sentences; nothing of images where Pillow is missing.

    ``folder`` has the small model, to which the files of its processor are added.
    """
    words = tuple(made_up_words(SMALL_MODEL.text_config.vocab_size))
    write_files(folder, processor_files(config, WHOLE, ChosenTokenizer(Vocabulary(words, "seeded"), "", "")))
    runs = {}
    for name, case in _cases(folder, config, words, sketch):
        try:
            answers, distance = case()
            runs[name] = Run(answers, {}, (), "", distance)
        except Exception as error:  # whatever stops a release is what is to be observed
            runs[name] = Run({}, {}, (), said(error), float("inf"))
    return runs


def _cases(
    folder: Path, config: Mapping[str, Any], words: tuple[str, ...], sketch: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, Callable[[], Answers]]]:
    """What is asked of the processor, by name."""
    tokenizer = cache(lambda: next(iter(tokenizers(folder).values())))
    for text, second in [*((text, None) for text in texts(words)), *pairs_of_texts(words)]:
        yield f"text {text[:40]!r}{'' if second is None else ' and another'}", partial(_of_text, tokenizer, words, text, second)
    if find_spec("PIL") is None:
        return
    from ..proof.examples import pictures

    processors = cache(lambda: image_processors(folder))
    sizes = square_size(config)
    for backend in (PILLOW, TORCHVISION):
        if backend == PILLOW or find_spec("torchvision") is not None:
            for picture in pictures(sizes[0]):
                yield f"image by {backend}, {picture.name}", partial(_of_image, processors, backend, picture, sizes, sketch)
    yield "from image files and sentences to logits", partial(_of_both, folder, config, words)


def _of_text(tokenizer: Callable[[], Any], words: tuple[str, ...], text: str, second: str | None) -> Answers:
    length = SMALL_MODEL.text_config.max_position_embeddings
    found = tokenizer()(text, second, padding="max_length", truncation=True, max_length=length)
    expected = WordPiece(words).encode(text, second, length)
    same = all(list(found[name]) == getattr(expected, name) for name in TEXT_INPUTS)
    return {name: torch.tensor(found[name]) for name in TEXT_INPUTS}, 0.0 if same else float("inf")


def _of_image(
    processors: Callable[[], Mapping[str, Any]],
    backend: str,
    picture: "Picture",
    sizes: tuple[int, int],
    sketch: Callable[[Tensor], Tensor],
) -> Answers:
    from ..original.preprocessing import evaluation_pixels

    found = processors()[backend](picture.image, return_tensors="pt", return_codebook_pixels=True)
    distance = relative_error(found["pixel_values"][0], evaluation_pixels(picture.image, *sizes).encoder)
    return {name: sketch(found[name]) for name in ("pixel_values", "codebook_pixel_values")}, distance


def _of_both(folder: Path, config: Mapping[str, Any], words: tuple[str, ...]) -> Answers:
    from ..proof.end_to_end import run_end_to_end

    sides = Sides(seeded_state_dict(SMALL_MODEL), seeded_codebook(SMALL_CODEBOOK), folder, dict(config))
    found = run_end_to_end(sides, WordPiece(words), SMALL_MODEL.text_config.max_position_embeddings)
    return found.logits, max(found.whole.values())
