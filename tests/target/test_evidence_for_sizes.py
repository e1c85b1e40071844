"""Every weight that shows a size of the model shows it alone, so that a checkpoint of a few parts tells its sizes too."""

from dataclasses import asdict
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest
import torch

from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.original.flava import Flava
from flava_port.rules.layouts import to_hugging_face

# No two sizes are equal, so that a size read from the wrong weight or axis shows.
CONFIG = FlavaConfig(
    ImageConfig(24, 1, 4, 44, image_size=20, patch_size=10, num_channels=5, vocab_size=21),
    TextConfig(32, 1, 2, 52, vocab_size=37, max_position_embeddings=11, type_vocab_size=3),
    MultimodalConfig(40, 1, 5, 60),
    projection_dim=14,
)
CODEBOOK = CodebookConfig(hidden_size=8, vocab_size=23, input_channels=6)
VALUES = {
    **{f"{section}.{name}": size for section, sizes in asdict(CONFIG).items() if isinstance(sizes, dict) for name, size in sizes.items()},
    **{f"image_codebook_config.{name}": size for name, size in asdict(CODEBOOK).items()},
    "hidden_size": 40,
    "projection_dim": 14,
}

MODELS = {"image_config": "flava.image_model", "text_config": "flava.text_model", "multimodal_config": "flava.multimodal_model"}
WIDTH = (
    "layernorm.weight", "layernorm.bias", "pooler.dense.weight", "pooler.dense.bias",
    "encoder.layer.0.attention.output.dense.bias", "encoder.layer.0.layernorm_before.weight",
)  # fmt: skip
INNER_WIDTH = ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")
VOCABULARY = ("decoder.weight", "decoder.bias", "bias")
EVIDENCE = {
    **{f"{section}.hidden_size": [f"{model}.{part}" for part in WIDTH] for section, model in MODELS.items()},
    **{f"{section}.intermediate_size": [f"{model}.encoder.layer.0.{part}" for part in INNER_WIDTH] for section, model in MODELS.items()},
    "image_config.patch_size": ["flava.image_model.embeddings.patch_embeddings.projection.weight"],
    "image_config.num_channels": ["flava.image_model.embeddings.patch_embeddings.projection.weight"],
    "image_config.vocab_size": [f"{head}.{part}" for head in ("mim_head", "mmm_image_head") for part in VOCABULARY],
    "text_config.vocab_size": [
        "flava.text_model.embeddings.word_embeddings.weight",
        *(f"{head}.{part}" for head in ("mlm_head", "mmm_text_head") for part in VOCABULARY),
    ],
    "text_config.type_vocab_size": ["flava.text_model.embeddings.token_type_embeddings.weight"],
    "text_config.max_position_embeddings": ["flava.text_model.embeddings.position_embeddings.weight"],
    "hidden_size": ["itm_head.pooler.dense.weight", "itm_head.pooler.dense.bias"],
    "projection_dim": [f"flava.{side}_projection.{part}" for side in ("text", "image") for part in ("weight", "bias")],
    "image_codebook_config.input_channels": ["image_codebook.blocks.input.weight"],
    "image_codebook_config.hidden_size": ["image_codebook.blocks.input.weight", "image_codebook.blocks.input.bias"],
    "image_codebook_config.vocab_size": ["image_codebook.blocks.output.conv.weight", "image_codebook.blocks.output.conv.bias"],
}


@pytest.fixture(scope="module")
def shapes() -> dict[str | None, tuple[int, ...]]:
    """The shapes of a reference model, by Hugging Face key; square matrices one column wider, so that the axis shows."""
    with torch.device("meta"):
        weights = Flava(CONFIG).state_dict() | DalleEncoder(CODEBOOK).state_dict()
    shapes = {to_hugging_face(key).target: tuple(value.shape) for key, value in weights.items()}
    return {key: (shape[0], shape[1] + 1) if len(shape) == 2 and shape[0] == shape[1] else shape for key, shape in shapes.items()}


@pytest.fixture
def sizes() -> ModuleType:
    """The module, run anew in each test: it makes its table while it is imported, and only so do mutants of that show."""
    spec = find_spec("flava_port.target.sizes")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in EVIDENCE.items() for key in keys])
def test_a_weight_alone_shows_its_size(sizes, shapes, name, key):
    """From a checkpoint with this key alone comes the size that the model was made with."""
    found = {size.name: (size.value, size.key) for size in sizes.sizes_found({key: shapes[key]})}
    assert found[name] == (VALUES[name], key)


def test_these_are_all_the_weights_that_show_a_size(sizes):
    """The list above has every weight that `SIZES` looks at, and no other."""
    looked_at = {(f"{size.section}.{size.field}".lstrip("."), key) for size in sizes.SIZES for key, _ in size.evidence}
    assert {(name, key) for name, keys in EVIDENCE.items() for key in keys} == looked_at
