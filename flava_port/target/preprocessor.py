"""FLAVA's image processing, as preprocessor_config.json says it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import DEFAULTS, both_sides, read_json
from .parts import CODEBOOK_PART, MODEL, PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from .tokenizer import PROCESSOR

PREPROCESSOR_CONFIG = "preprocessor_config.json"


def takes_images(part: Part) -> bool:
    """Whether a part's class is called with images."""
    return part in (WHOLE, WITHOUT_CODEBOOK, MODEL, PARTS["image"], CODEBOOK_PART)


def preprocessor_json(config: Mapping, part: Part = WHOLE) -> dict[str, Any]:
    """The content of ``preprocessor_config.json``: FLAVA's image processing for this config's image size.

    The encoder's pixels are normalised with CLIP's mean and deviation. The codebook's pixels lie between 0 and 1. It
    makes a code of every 8 by 8 of them, so their number is such that each patch of the encoder has one code.

    Images of any mode are converted to RGB, as the original does; releases before 5.0.0 read that field in their fast
    processor alone.
    """
    image = config["image_config"]
    height, width = both_sides(image["image_size"])
    patches = height // both_sides(image["patch_size"])[0]
    size, codebook_size = {"height": height, "width": width}, {"height": 8 * patches, "width": 8 * patches}
    return {
        "image_processor_type": "FlavaImageProcessor", "feature_extractor_type": "FlavaFeatureExtractor",
        **({} if part.section else {"processor_class": PROCESSOR}),
        "do_convert_rgb": True,
        "do_resize": True, "size": size, "resample": 3, "do_center_crop": True, "crop_size": size,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "return_image_mask": False, "input_size_patches": patches, "total_mask_patches": 75 * patches * patches // (14 * 14),
        "mask_group_min_patches": 16, "mask_group_max_patches": None,
        "mask_group_min_aspect_ratio": 0.3, "mask_group_max_aspect_ratio": None,
        "return_codebook_pixels": part is CODEBOOK_PART,
        "codebook_do_resize": True, "codebook_size": codebook_size, "codebook_resample": 1,
        "codebook_do_center_crop": True, "codebook_crop_size": codebook_size,
        "codebook_do_rescale": True, "codebook_rescale_factor": 1 / 255, "codebook_do_map_pixels": True,
        "codebook_do_normalize": True, "codebook_image_mean": [0.0, 0.0, 0.0], "codebook_image_std": [1.0, 1.0, 1.0],
    }  # fmt: skip


# A processor of images and texts together; releases from 4.46 on may keep the image processor's fields in it.
PROCESSOR_CONFIG = "processor_config.json"

# Fields that a release writes besides, or leaves out, and the values that change nothing. None is as if it were not there.
_ALLOWED: Mapping[str, tuple[object, ...]] = {
    "image_processor_type": ("FlavaImageProcessor", "FlavaImageProcessorFast", "FlavaImageProcessorPil", "FlavaFeatureExtractor", None),
    "feature_extractor_type": ("FlavaFeatureExtractor", None),
    "processor_class": (PROCESSOR, None),
    "do_convert_rgb": (True, None),
    "data_format": ("channels_first", None),
    "default_to_square": (True, None),
    **dict.fromkeys(
        ("input_data_format", "device", "return_tensors", "disable_grouping", "do_pad", "pad_size", "size_divisor", "image_seq_length"),
        (None,),
    ),
}
_ANY = frozenset(("_valid_processor_keys", "transformers_version", "name_or_path", "_name_or_path"))


def preprocessor_differences(folder: Path, config: dict, part: Part = WHOLE) -> list[tuple[str, object, object]]:
    """The fields in which the folder's image processing, where it has any, is not FLAVA's: name, actual, expected.

    It is an allowlist: a field that is neither FLAVA's nor known to change nothing is one of them; None is expected of it.
    """
    found: list[tuple[str, object, object]] = []
    if (path := folder / PREPROCESSOR_CONFIG).exists():
        found += _differences(path.name, read_json(path)[0], config, part)
    if (path := folder / PROCESSOR_CONFIG).exists():
        content = read_json(path)[0]
        images = content.get("image_processor")
        if isinstance(images, dict):
            found += _differences(f"{path.name}: image_processor", images, config, part)
        rest = {name: value for name, value in content.items() if name != "image_processor" or not isinstance(images, dict | None)}
        found += [(f"{path.name}: {name}", value, PROCESSOR if name == "processor_class" else None)
                  for name, value in rest.items() if name not in _ANY and (name, value) != ("processor_class", PROCESSOR)]  # fmt: skip
    return found


def _differences(file: str, content: Mapping[str, Any], config: Mapping, part: Part) -> list[tuple[str, object, object]]:
    wanted, defaults = preprocessor_json(config, part), preprocessor_json(DEFAULTS)
    found: list[tuple[str, object, object]] = []
    for name, expected in wanted.items():
        actual = content.get(name, None if name in _ALLOWED else defaults[name])
        if actual != expected and _as_sides(name, actual) != expected and actual not in _ALLOWED.get(name, ()):
            found.append((f"{file}: {name}", actual, expected))
    for name in content.keys() - wanted.keys() - _ANY:
        if content[name] not in _ALLOWED.get(name, ()):
            found.append((f"{file}: {name}", content[name], None))
    return sorted(found)


def _as_sides(name: str, value: object) -> object:
    """A size as its two sides; releases before 4.26 wrote one number."""
    return {"height": value, "width": value} if name.endswith("size") and type(value) is int else value
