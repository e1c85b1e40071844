"""`expected_shapes` states what the models of the installed transformers have, for any config."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

import flava_port
from flava_port.target.config import normal_form
from flava_port.target.installed import empty_model
from flava_port.target.keys import POSITION_IDS
from flava_port.target.known import built_shapes, installed_flava, shapes_for
from flava_port.target.parts import CODEBOOK_PART, PARTS, WITHOUT_CODEBOOK
from flava_port.target.shapes import expected_shapes
from tests.strategies import hugging_face_codebook_configs, hugging_face_configs


@given(hugging_face_configs())
def test_every_key_and_shape_is_what_a_model_has(config):
    """The stated shapes are those of a model built on the meta device, for any config, whichever fields it leaves out."""
    assert expected_shapes(config) == built_shapes(config)


@given(hugging_face_codebook_configs())
def test_the_codebooks_keys_and_shapes_are_what_a_codebook_alone_has(config):
    """The stated shapes under `image_codebook.` are those of a `FlavaImageCodebook`."""
    whole = expected_shapes({"image_codebook_config": config, "init_codebook": True})
    own = {key: shape for key, shape in whole.items() if CODEBOOK_PART.holds(key)}
    assert own == built_shapes({"image_codebook_config": config}, CODEBOOK_PART)


@pytest.mark.parametrize("part", PARTS.values(), ids=str)
@given(config=hugging_face_configs())
@settings(max_examples=5)
def test_each_parts_keys_and_shapes_are_what_that_part_alone_has(part, config):
    """The stated shapes of a part are those of its own class: `FlavaModel`, and each encoder."""
    whole = normal_form(config)
    own = {key: shape for key, shape in expected_shapes(whole).items() if part.holds(key)}
    assert own == built_shapes(whole, part)


@pytest.mark.parametrize("part", [*PARTS.values(), CODEBOOK_PART, WITHOUT_CODEBOOK], ids=str)
def test_a_part_is_asked_for_by_itself(part):
    """`shapes_for` gives a part's keys alone; the codebook's even where the config says that the whole model has none."""
    whole = expected_shapes({})
    own = {key: shape for key, shape in whole.items() if part.holds(key)}
    assert own and shapes_for({"init_codebook": part is not CODEBOOK_PART}, part) == own


def test_a_config_that_only_transformers_understands_is_built():
    """`shapes_for` builds a model where the config has a field that is not FLAVA's."""
    config = {"text_config": {"num_hidden_layers": 1, "a_field_of_mine": 3}}
    assert shapes_for(config) == built_shapes(config) == expected_shapes(config)


def test_layers_stand_side_by_side():
    """Keys are in the order that decides the bytes of what is written: a key of all layers, then the next key; blocks likewise."""
    config = {"text_config": {"num_hidden_layers": 3}}
    keys = list(expected_shapes(config))
    first = [f"flava.text_model.encoder.layer.{number}.attention.attention.query.weight" for number in range(3)]
    start = keys.index(first[0])
    assert keys[start : start + 4] == [*first, first[0].replace("weight", "bias")]
    group = [key.partition("group_2.group.")[2] for key in keys if "group_2" in key]
    assert group[:5] == [
        "block_1.id_path.weight",
        "block_1.id_path.bias",
        "block_1.res_path.path.conv_1.weight",
        "block_1.res_path.path.conv_1.bias",
        "block_2.res_path.path.conv_1.bias",
    ]
    assert group[-1] == "block_2.res_path.path.conv_1.weight"  # of another shape than block_1's
    stated = [key for key in keys if "layer." not in key and "block_" not in key]
    built = [key for key in empty_model(config).state_dict() if "layer." not in key and "block_" not in key and key != POSITION_IDS]
    assert stated == built


def test_stating_shapes_imports_neither_torch_nor_transformers():
    """The shapes of a release with known sources are stated without both, whose imports take longer than a conversion."""
    program = (
        "import sys\n"
        "from flava_port.target.known import shapes_for\n"
        "assert shapes_for({})\n"
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(flava_port.__file__).parents[1])
    assert ran.returncode == (2 if installed_flava().same_as is None else 0)
