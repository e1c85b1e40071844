"""What the installed transformers makes of images and texts, by backend and by option, and what comes of it in the small model."""

import ast
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
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
from ..proof.processors import PILLOW, TEXT_INPUTS, TORCHVISION, image_processors, processor_of_both, square_size, tokenizers
from ..proof.sides import Sides
from ..target.parts import WHOLE
from ..target.processor import processor_files
from ..target.tokenizer import ChosenTokenizer
from .circumstances import flattened
from .facts import Facts, fields_of, tried
from .observation import Run
from .runs import form_of, said, sketch
from .small_model import SMALL_CODEBOOK, SMALL_MODEL

if TYPE_CHECKING:
    from ..proof.examples import Picture

PROCESSING = "processing"
Answers = tuple[Mapping[str, Tensor], float | None]  # by name, and their distance from the original's, where that has the same

# Options of the image processor, each with what it is tried with.
_OPTIONS: Mapping[str, Any] = {
    "do_resize": False,
    "size": {"height": 16, "width": 20},
    "resample": 2,
    "do_center_crop": False,
    "crop_size": {"height": 8, "width": 10},
    "do_rescale": False,
    "rescale_factor": 0.5,
    "do_normalize": False,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "codebook_do_resize": False,
    "codebook_size": {"height": 20, "width": 24},
    "codebook_resample": 2,
    "codebook_do_center_crop": False,
    "codebook_crop_size": {"height": 16, "width": 18},
    "codebook_do_rescale": False,
    "codebook_rescale_factor": 0.5,
    "codebook_do_map_pixels": False,
    "codebook_do_normalize": False,
    "codebook_image_mean": [0.1, 0.2, 0.3],
    "codebook_image_std": [0.5, 0.6, 0.7],
    "input_size_patches": 6,
    "total_mask_patches": 4,
    "mask_group_min_patches": 2,
    "mask_group_max_patches": 3,
    "mask_group_min_aspect_ratio": 0.9,
    "mask_group_max_aspect_ratio": 1.2,
}


_SQUARES: Mapping[str, Any] = dict.fromkeys(("size", "crop_size", "codebook_size", "codebook_crop_size"), 20)


def observe_processing(folder: Path, config: Mapping[str, Any]) -> dict[str, Run]:
    """Every image by every backend, every text, and logits from files and sentences; nothing of images where Pillow is missing.

    ``folder`` has the small model, to which the files of its processor are added.
    """
    words = tuple(made_up_words(SMALL_MODEL.text_config.vocab_size))
    write_files(folder, processor_files(config, WHOLE, ChosenTokenizer(Vocabulary(words, "seeded"), "", "")))
    cases: list[tuple[str, Callable[[], Answers]]] = [*_of_texts(folder, words)]
    if find_spec("PIL") is not None:
        cases += [*_of_images(folder, config), ("from image files and sentences to logits", partial(_of_both, folder, config, words))]
    runs = {}
    for name, case in cases:
        judged = float("inf") if _is_judged(name) else None
        try:
            answers, distance = case()
            forms = {key: form_of(value) for key, value in answers.items()}
            runs[name] = Run({key: sketch(value) for key, value in answers.items()}, {}, (), "", distance, forms, PROCESSING)
        except Exception as error:  # whatever stops a release is what is to be observed
            runs[name] = Run({}, {}, (), said(error), judged, kind=PROCESSING)
    return runs


def _is_judged(name: str) -> bool:
    return name.startswith(("text ", "from ")) or (name.startswith("image by ") and "option" not in name and "given" not in name)


def _of_texts(folder: Path, words: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Answers]]]:
    tokenizer = cache(lambda: next(iter(tokenizers(folder).values())))
    for text, second in [*((text, None) for text in texts(words)), *pairs_of_texts(words)]:
        yield f"text {text[:40]!r}{'' if second is None else ' and another'}", partial(_of_text, tokenizer, words, text, second)
    some = texts(words)[:4]
    forms: Mapping[str, Mapping[str, Any]] = {
        "padded to the longest": {"padding": True},
        "of whole words given": {"is_split_into_words": True, "padding": True},
        "short, with what overflows": {"truncation": True, "max_length": 6, "padding": True, "return_special_tokens_mask": True},
        "without special tokens": {"add_special_tokens": False, "padding": True},
    }
    for name, options in forms.items():
        given = [text.split() for text in some] if "is_split_into_words" in options else some
        yield f"tokens {name}", partial(_tokens, tokenizer, given, options)


def _tokens(tokenizer: Callable[[], Any], given: Any, options: Mapping[str, Any]) -> Answers:
    return dict(flattened(tokenizer()(given, return_tensors="pt", **options))), None


def _of_text(tokenizer: Callable[[], Any], words: tuple[str, ...], text: str, second: str | None) -> Answers:
    length = SMALL_MODEL.text_config.max_position_embeddings
    found = tokenizer()(text, second, padding="max_length", truncation=True, max_length=length)
    expected = WordPiece(words).encode(text, second, length)
    same = all(list(found[name]) == getattr(expected, name) for name in TEXT_INPUTS)
    return {name: torch.tensor(found[name]) for name in TEXT_INPUTS}, 0.0 if same else float("inf")


def _of_images(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Answers]]]:
    """Each picture, then one picture with each option and in each form, by each backend."""
    from ..proof.examples import pictures

    processors = cache(lambda: image_processors(folder))
    sizes = square_size(config)
    for backend in (PILLOW, TORCHVISION) if find_spec("torchvision") else (PILLOW,):
        for picture in pictures(sizes[0]):
            yield f"image by {backend}, {picture.name}", partial(_of_image, processors, backend, picture, sizes)
        image = pictures(sizes[0])[1].image

        def run(images: Any, backend: str = backend, **options: Any) -> Answers:
            random.seed(0)  # which the masks of patches are drawn from
            both = {"return_codebook_pixels": True, "return_image_mask": True, "return_tensors": "pt"}
            return dict(flattened(processors()[backend](images, **{**both, **options}))), None

        for name, value in _OPTIONS.items():
            yield f"image by {backend}, option {name} = {value}", partial(run, image, **{name: value})
        for name, value in _SQUARES.items():
            yield f"image by {backend}, option {name} = {value}", partial(run, image, **{name: value})
        tensor = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
        forms = {
            "three of them": [image] * 3,
            "an array": tensor.numpy(),
            "a tensor": tensor.permute(2, 0, 1),
            "a tensor of floats": tensor.permute(2, 0, 1) / 255,
        }
        for name, given in forms.items():
            yield f"image by {backend}, given as {name}", partial(run, given)
        yield (
            f"image by {backend}, given as it is, nothing but pixels",
            partial(run, image, return_codebook_pixels=False, return_image_mask=False),
        )


def _of_image(processors: Callable[[], Mapping[str, Any]], backend: str, picture: "Picture", sizes: tuple[int, int]) -> Answers:
    from ..original.preprocessing import evaluation_pixels

    found = processors()[backend](picture.image, return_tensors="pt", return_codebook_pixels=True)
    distance = relative_error(found["pixel_values"][0], evaluation_pixels(picture.image, *sizes).encoder)
    return {name: found[name] for name in ("pixel_values", "codebook_pixel_values")}, distance


def _of_both(folder: Path, config: Mapping[str, Any], words: tuple[str, ...]) -> Answers:
    from ..proof.end_to_end import run_end_to_end

    sides = Sides(seeded_state_dict(SMALL_MODEL), seeded_codebook(SMALL_CODEBOOK), folder, dict(config))
    found = run_end_to_end(sides, WordPiece(words), SMALL_MODEL.text_config.max_position_embeddings)
    return found.logits, max(found.whole.values())


def observe_processors(folder: Path) -> Facts:
    """The defaults of the image processors and of the tokenizer, and what the processor of both answers with."""
    import transformers

    found: Facts = {}
    for name in [name for name in dir(transformers) if name.startswith("FlavaImageProcessor") and not name.endswith("Kwargs")]:
        defaults = tried(_defaults_of, name)
        found |= fields_of(defaults, name) if isinstance(defaults, Mapping) else {name: defaults}
    for field in _SQUARES:
        found[f"an image processor loaded with {field} = {_SQUARES[field]}"] = tried(_field_when_loaded, folder, field)
    tokenizer = tried(lambda: next(iter(tokenizers(folder).values())))
    for field in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "all_special_tokens",
        "all_special_ids",
        "model_input_names",
        "vocab_size",
    ):
        found[f"tokenizer: {field}"] = str(getattr(tokenizer, field, None))
    found["tokenizer: decoded"] = tried(lambda: tokenizer.decode(list(range(12))))
    found["tokenizer: decoded, without special tokens"] = tried(lambda: tokenizer.decode(list(range(12)), skip_special_tokens=True))
    for name in ("AutoTokenizer", "AutoImageProcessor", "AutoProcessor"):
        found[f"what {name} makes of a folder"] = tried(_class_of, name, folder)
    if find_spec("PIL") is not None:
        found |= _of_the_processor_of_both(folder)
    return found | _sources_that_do_not_run()


def _sources_that_do_not_run() -> Facts:
    """A digest of each module of FLAVA that cannot be imported here: what it does is not observed, and a change of it is seen.

    Comments and docstrings do not count.
    """
    import transformers

    found = {}
    for path in sorted(Path(transformers.__file__).parent.glob("models/flava/*processing*.py")):
        try:
            import_module(f"transformers.models.flava.{path.stem}")
        except ImportError as error:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                    node.body[0] = ast.Pass()
            digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
            found[f"{path.stem}, which does not run here ({said(error)[:80]})"] = f"sources {digest}"
    return found


def _saved_files(of: Any) -> Facts:
    """What an image processor, a tokenizer or the processor of both writes, as far as it is JSON; of other files the digest."""
    found: Facts = {}
    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        of.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            content = json.loads(path.read_bytes()) if path.suffix == ".json" and path.name != "tokenizer.json" else None
            if isinstance(content, dict):
                found |= fields_of(content, path.name)
            else:
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def _class_of(name: str, folder: Path) -> str:
    import transformers

    return type(getattr(transformers, name).from_pretrained(folder)).__name__


def _of_the_processor_of_both(folder: Path) -> Facts:
    from ..proof.examples import pictures

    image = pictures(SMALL_MODEL.image_config.image_size)[0].image
    calls: Mapping[str, Mapping[str, Any]] = {
        "images and texts": {"images": [image], "text": ["a cat"], "return_codebook_pixels": True, "return_image_mask": True},
        "images": {"images": [image]},
        "texts": {"text": ["a cat"]},
    }
    processor = tried(lambda: processor_of_both(folder))
    found = {f"FlavaProcessor of {name}": tried(_forms, processor, options) for name, options in calls.items()}
    saved = tried(_saved_files, processor)
    found |= {f"FlavaProcessor saved, {name}": value for name, value in saved.items()} if isinstance(saved, dict) else {"saved": saved}
    found["FlavaProcessor: model_input_names"] = tried(lambda: list(processor.model_input_names))
    return found


def _defaults_of(name: str) -> Facts:
    import transformers

    defaults: Facts = json.loads(getattr(transformers, name)().to_json_string())
    return defaults


def _field_when_loaded(folder: Path, field: str) -> str:
    import transformers

    processor = transformers.FlavaImageProcessor.from_pretrained(folder, **{field: _SQUARES[field]})
    return json.dumps(json.loads(processor.to_json_string())[field])


def _forms(processor: Any, options: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {form_of(value)}" for name, value in flattened(processor(**options, return_tensors="pt"))]
