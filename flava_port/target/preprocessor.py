"""FLAVA's image processing, as preprocessor_config.json says it."""

from pathlib import Path

from .config import both_sides, read_json


def preprocessor_json(config: dict) -> dict:
    """The content of ``preprocessor_config.json``: FLAVA's image processing for this config's image size.

    The encoder's pixels are normalised with CLIP's mean and deviation. The codebook's pixels lie between 0 and 1. It
    makes a code of every 8 by 8 of them, so their number is such that each patch of the encoder has one code.
    """
    image = config["image_config"]
    height, width = both_sides(image["image_size"])
    patch_height, _ = both_sides(image["patch_size"])
    patches = height // patch_height
    size, codebook_size = {"height": height, "width": width}, {"height": 8 * patches, "width": 8 * patches}
    return {
        "image_processor_type": "FlavaImageProcessor", "feature_extractor_type": "FlavaFeatureExtractor",
        "do_resize": True, "size": size, "resample": 3, "do_center_crop": True, "crop_size": size,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "return_image_mask": False, "input_size_patches": patches, "total_mask_patches": 75 * patches * patches // (14 * 14),
        "mask_group_min_patches": 16, "mask_group_max_patches": None,
        "mask_group_min_aspect_ratio": 0.3, "mask_group_max_aspect_ratio": None,
        "return_codebook_pixels": False, "codebook_do_resize": True, "codebook_size": codebook_size, "codebook_resample": 1,
        "codebook_do_center_crop": True, "codebook_crop_size": codebook_size,
        "codebook_do_rescale": True, "codebook_rescale_factor": 1 / 255, "codebook_do_map_pixels": True,
        "codebook_do_normalize": True, "codebook_image_mean": [0.0, 0.0, 0.0], "codebook_image_std": [1.0, 1.0, 1.0],
    }  # fmt: skip


def preprocessor_differences(folder: Path, config: dict) -> list[tuple[str, object, object]]:
    """The fields in which the folder's ``preprocessor_config.json``, if it has one, is not FLAVA's: name, actual, expected."""
    if not (path := folder / "preprocessor_config.json").exists():
        return []
    content, _ = read_json(path)
    wanted = preprocessor_json(config)
    return [(f"{path.name}: {name}", content.get(name), value) for name, value in wanted.items() if content.get(name) != value]
