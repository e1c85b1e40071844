"""What a folder turns images and texts into inputs with: the image processors and the tokenizer that transformers loads from it."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidInput
from ..files.vocabulary import TOKENIZER
from ..target.installed import quiet
from ..target.preprocessor import PREPROCESSOR_CONFIG
from ..target.tokenizer import TOKENIZER_FILES
from .certificate import NothingToJudge

if TYPE_CHECKING:
    from torch import Tensor

TEXT_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
PILLOW, TORCHVISION = "pil", "torchvision"  # the backends, by the names that transformers 5 gives them


class Processor(Protocol):
    """What is used of an image processor, a tokenizer or `FlavaProcessor`."""

    def __call__(self, *arguments: Any, **options: Any) -> "Mapping[str, Tensor]": ...


def image_processors(folder: Path) -> dict[str, Processor]:
    """The folder's image processor on every backend that is installed, `AutoImageProcessor`'s own choice first.

    Raises:
        NothingToJudge: the folder has none, or Pillow is not installed.
    """
    if not (folder / PREPROCESSOR_CONFIG).exists():
        raise NothingToJudge(f"there is no {PREPROCESSOR_CONFIG} in the folder")
    need_pillow()
    with quiet():
        from transformers import AutoImageProcessor

        def load(**options: object) -> Any:
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)

        chosen = load()
        found: dict[str, Processor] = {backend_of(chosen): chosen}
        for backend in (PILLOW, TORCHVISION) if find_spec("torchvision") else (PILLOW,):
            if backend not in found:
                option = {"backend": backend} if hasattr(chosen, "backend") else {"use_fast": backend == TORCHVISION}
                with suppress(ImportError, ValueError):  # a release without such a processor
                    other = load(**option)
                    found.setdefault(backend_of(other), other)
    return found


def need_pillow() -> None:
    """Raises NothingToJudge where Pillow is not installed, without which neither side takes images."""
    if find_spec("PIL") is None:
        raise NothingToJudge("Pillow is not installed: pip install 'flava-port[images]'")


def backend_of(processor: object) -> str:
    """The backend of an image processor; before transformers 5 the name of its class says it."""
    by_name = TORCHVISION if type(processor).__name__.endswith("Fast") else PILLOW
    return str(getattr(processor, "backend", by_name))


def tokenizers(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer by the name of its class: in Rust, and up to transformers 4 in Python too; and its tokenizer.json alone.

    transformers 5 takes of that file the words only, and earlier releases all of it.

    Raises:
        NothingToJudge: the folder has none.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise NothingToJudge("there is no tokenizer in the folder; convert --tokenizer puts one there")
    with quiet():
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        found = [
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=fast) for fast in (True, False)
        ]
        by_name = {type(tokenizer).__name__: tokenizer for tokenizer in found}
        if (file := folder / TOKENIZER).exists():
            as_bert = {"pad_token": "[PAD]", "model_max_length": found[0].model_max_length, "model_input_names": TEXT_INPUTS}
            by_name[TOKENIZER] = PreTrainedTokenizerFast(tokenizer_file=str(file), **as_bert)
    return by_name


def processor_of_both(folder: Path) -> Processor:
    """`FlavaProcessor`, for images and texts together."""
    with quiet():
        from transformers import FlavaProcessor

        processor: Processor = FlavaProcessor.from_pretrained(folder, local_files_only=True)
    return processor


def square_size(config: Mapping) -> tuple[int, int]:
    """The side of the images that the encoder takes, and of those that the codebook takes.

    Raises:
        NothingToJudge: the images are not square, which the original's always are.
        InvalidInput: the config has sizes that leave no patch.
    """
    size, patch = config["image_config"]["image_size"], config["image_config"]["patch_size"]
    if not isinstance(size, int) or not isinstance(patch, int):
        raise NothingToJudge("the images are not square; the original's preprocessing makes square ones")
    if size < patch:
        raise InvalidInput(f"image_size {size} is smaller than patch_size {patch}")
    return size, 8 * (size // patch)
