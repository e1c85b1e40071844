"""Sizes are read from the checkpoint's own shapes; what shapes cannot tell is assumed and said."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava_port import InvalidInput, NotFaithful, convert_flava_checkpoint
from flava_port.target.config import normal_form, read_config
from flava_port.target.keys import HEADS
from flava_port.target.known import built_shapes
from flava_port.target.schema import PROBE, flat
from flava_port.target.shapes import expected_shapes
from flava_port.target.sizes import SIZES, config_from_shapes, contradictions, sizes_found
from tests.builders import TINY, TINY_CODEBOOK
from tests.strategies import original_codebook_configs, original_configs

NOT_IN_SHAPES = {"num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id"}


def _fields(config, codebook) -> dict:
    return {**asdict(config), "hidden_size": config.multimodal_config.hidden_size, "image_codebook_config": asdict(codebook)}


@given(config=original_configs(), codebook=original_codebook_configs())
def test_every_size_of_a_config_comes_back_from_its_shapes(config, codebook):
    """Hidden sizes, layers, vocabularies, patches, positions, projection and codebook are read from the shapes of a model."""
    expected = normal_form(_fields(config, codebook))
    actual, _ = config_from_shapes(built_shapes(expected))
    for section, fields in asdict(config).items():
        for field in fields if isinstance(fields, dict) else ():
            if field not in NOT_IN_SHAPES:
                assert actual[section][field] == expected[section][field], f"{section}.{field}"
    assert actual["image_codebook_config"] == expected["image_codebook_config"]
    assert (actual["projection_dim"], actual["hidden_size"]) == (expected["projection_dim"], expected["hidden_size"])


@pytest.mark.parametrize(("hidden", "heads"), [(64, 1), (768, 12), (1024, 16), (32, 1), (96, 2), (80, 2), (75, 3), (130, 5), (67, 67)])
def test_heads_are_64_wide_or_the_widest_that_divides(hidden, heads):
    """Attention heads are assumed 64 wide, as FLAVA's are, or the next width below that divides the hidden size."""
    config, assumed = config_from_shapes({"flava.text_model.layernorm.weight": (hidden,)})
    assert config["text_config"]["num_attention_heads"] == heads
    assert f"{heads} (text, {hidden // heads} wide)" in assumed[0]


def test_the_command_says_what_it_assumed(tiny, run_command, tmp_path):
    """`convert` prints what no shape shows: heads, activation and epsilon."""
    ran = run_command(
        "convert", "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--pytorch-dump-folder-path", tmp_path / "out"
    )
    assert "1 (text, 64 wide)" in ran.out and "activation: gelu" in ran.out and "layer norm epsilon: 1e-12" in ran.out


@pytest.mark.parametrize(
    ("section", "field"),
    [("image_config", "patch_size"), ("text_config", "vocab_size"), ("multimodal_config", "num_hidden_layers"), ("", "projection_dim"), ("image_codebook_config", "hidden_size")],
)  # fmt: skip
def test_a_config_that_contradicts_a_shape_stops_with_both_numbers(tiny, tmp_path, section, field):
    """The message has the field, the config's number, the key and the number that it shows."""
    fields = _fields(TINY, TINY_CODEBOOK)
    (fields[section] if section else fields)[field] += 4
    (tmp_path / "config.json").write_text(json.dumps(fields))
    value = (fields[section] if section else fields)[field]
    with pytest.raises(NotFaithful, match=rf"{field} = {value}, but .* shows {value - 4}"):
        convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out", tmp_path)


EVIDENCE = [(f"{size.section}.{size.field}".lstrip("."), key) for size in SIZES for key, _axis in size.evidence]


@pytest.mark.parametrize(("name", "key"), EVIDENCE, ids=[f"{name} by {key}" for name, key in EVIDENCE])
def test_each_weight_alone_shows_the_size_that_it_is_evidence_of(name, key):
    """A size read from one weight is the config's; all sizes of the config differ, so that a wrong weight or axis shows."""
    [found] = [size for size in sizes_found({key: expected_shapes(PROBE)[key]}) if size.name == name]
    value = flat(PROBE)[name]
    assert (found.value, found.key) == (value[0] if isinstance(value, list) else value, key)


@pytest.mark.parametrize("part", ["bias", "decoder.bias", "decoder.weight"])
@pytest.mark.parametrize("head", HEADS)
def test_each_head_alone_shows_its_encoders_vocabulary(head, part):
    """mim_head and mmm_image_head show the image vocabulary, mlm_head and mmm_text_head the text vocabulary."""
    section = "image_config" if head in ("mim_head", "mmm_image_head") else "text_config"
    shapes = {f"{head}.{part}": expected_shapes(PROBE)[f"{head}.{part}"]}
    assert [(size.name, size.value) for size in sizes_found(shapes)] == [(f"{section}.vocab_size", PROBE[section]["vocab_size"])]


def test_sizes_are_decided_by_most_of_the_weights():
    """One weight of a wrong shape does not become the model's size."""
    shapes = {f"flava.text_model.{name}": (64,) for name in ("layernorm.weight", "layernorm.bias", "pooler.dense.bias")}
    for other in (63, 65):
        found = sizes_found({**shapes, "flava.text_model.layernorm.weight": (other,)})
        assert [size.value for size in found if size.name == "text_config.hidden_size"] == [64]


@pytest.mark.parametrize(
    ("numbers", "highest"), [({10}, 10), ({0, 1, 2, 16}, 16), ({11}, None), ({0, 1, 2, 17}, None)], ids=lambda value: str(value)
)
def test_a_number_far_above_how_many_there_are_is_refused(numbers, highest):
    """More than twice as many and 8: modules between them must be missing."""
    shapes = {f"flava.text_model.encoder.layer.{number}.output.dense.bias": (4,) for number in numbers}
    if highest is None:
        with pytest.raises(NotFaithful, match=f"is number {max(numbers)} where the checkpoint has {len(numbers)} in all"):
            sizes_found(shapes)
    else:
        [found] = (size for size in sizes_found(shapes) if size.field == "num_hidden_layers")
        assert found.value == highest + 1


IMAGE = "flava.image_model.embeddings."


@pytest.mark.parametrize(("positions", "patch", "size"), [(2, (5, 5), 5), (5, (3, 3), 6), (50, (2, 2), 14)])
def test_the_image_is_as_many_patches_wide_as_positions_tell(positions, patch, size):
    """One position is the class token's; the key that shows it is named."""
    shapes = {f"{IMAGE}position_embeddings": (1, positions, 4), f"{IMAGE}patch_embeddings.projection.weight": (4, 3, *patch)}
    [found] = (found for found in sizes_found(shapes) if found.field == "image_size")
    assert (found.value, found.key) == (size, f"{IMAGE}position_embeddings")


@pytest.mark.parametrize(
    ("positions", "patch"), [(0, (2, 2)), (1, (2, 2)), (3, (2, 2)), (4, (2, 2)), (6, (2, 2)), (5, (2, 3)), (5, (3, 2))]
)
def test_no_size_is_read_from_an_image_that_is_no_square(positions, patch):
    """Nor from no patches, nor from patches that are no squares."""
    shapes = {f"{IMAGE}position_embeddings": (1, positions, 4), f"{IMAGE}patch_embeddings.projection.weight": (4, 3, *patch)}
    assert not [found for found in sizes_found(shapes) if found.field == "image_size"]


def test_image_positions_that_are_no_square_ask_for_a_config():
    """29 patches could make an image of any shape, so the message asks for a config."""
    for beside in ({}, {"flava.text_model.layernorm.weight": (8,)}):
        with pytest.raises(NotFaithful, match="30 positions.* no square of square patches, .*; pass --config_path$"):
            config_from_shapes({"flava.image_model.embeddings.position_embeddings": (1, 30, 8), **beside})


def test_the_models_own_width_is_that_of_the_matching_head_or_the_multimodal_encoders():
    """The head shows it where there is one; encoders alone have none."""
    encoder = {"flava.multimodal_model.layernorm.weight": (40,)}
    assert config_from_shapes(encoder)[0]["hidden_size"] == 40
    assert config_from_shapes({**encoder, "itm_head.pooler.dense.weight": (56, 56)})[0]["hidden_size"] == 56


def test_the_side_of_square_images_may_stand_in_a_list():
    """One of its numbers must be the one that the shapes show."""
    config = normal_form(_fields(TINY, TINY_CODEBOOK))
    shapes, side = built_shapes(config), config["image_config"]["image_size"]
    for value, is_wrong in (([side, side], False), ([side + 1, side + 1], True), (side + 1, True)):
        config["image_config"]["image_size"] = value
        assert [name for name, _, _ in contradictions(config, shapes)] == ["image_config.image_size"] * is_wrong


@given(value=st.sampled_from(["12", None, [1], {"a": 1}, 1.5, True]))
def test_a_field_of_the_wrong_type_is_named(value):
    """A config that some release would misread is refused with the field's name."""
    with pytest.raises(InvalidInput, match=r"text_config\.num_hidden_layers is"):
        normal_form({"text_config": {"num_hidden_layers": value}})


def test_whole_numbers_become_floats_where_floats_belong():
    """Floats are written as such, since strict releases refuse mim_weight = 1."""
    config = normal_form({"mim_weight": 1, "image_config": {"layer_norm_eps": 0}})
    assert type(config["mim_weight"]) is float and type(config["image_config"]["layer_norm_eps"]) is float


def test_the_older_names_of_sub_configs_are_read():
    """image_config_dict and the like, which releases up to 4.24 wrote, win over image_config."""
    config = normal_form({"image_config": {"hidden_size": 8}, "image_config_dict": {"hidden_size": 16}})
    assert config["image_config"]["hidden_size"] == 16 and "image_config_dict" not in config


def test_what_we_do_not_know_in_a_config_is_kept():
    """A field of the user's own survives."""
    assert normal_form({"note": "mine", "text_config": {"team": "b"}})["text_config"]["team"] == "b"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_type": "bert"}', '{"image_config": 3}'])
def test_a_file_that_is_no_flava_config_is_refused(tmp_path, content):
    """The message names the file."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"config\.json: "):
        read_config(tmp_path)
