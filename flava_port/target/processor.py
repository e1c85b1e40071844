"""What turns images and texts into a part's inputs: the files of its image processing and of its tokenizer."""

from collections.abc import Mapping
from typing import Any

from .parts import Part
from .preprocessor import PREPROCESSOR_CONFIG, preprocessor_json, takes_images
from .tokenizer import ChosenTokenizer, tokenizer_files


def processor_files(config: Mapping, part: Part, tokenizer: ChosenTokenizer | None) -> dict[str, str | dict[str, Any]]:
    """The files of a part's folder, by name: a text, or the content of a JSON file. What the part does not take has none."""
    images = {PREPROCESSOR_CONFIG: preprocessor_json(config, part)} if takes_images(part) else {}
    texts = tokenizer_files(tokenizer.vocabulary, config, part) if tokenizer and tokenizer.vocabulary else {}
    return {**images, **texts}
