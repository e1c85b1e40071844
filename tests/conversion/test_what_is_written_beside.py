"""The files beside the weights say what was converted: its class, its dtype, its images, and what it computes differently."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava_port import InvalidInput, NotFaithful, convert_flava_checkpoint
from flava_port.target.config import read_config
from flava_port.target.parts import PARTS, WHOLE
from flava_port.target.preprocessor import preprocessor_json
from tests.builders import tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.reading.found import hugging_face
from tests.rules.grammar import tiny_torchmultimodal

pytestmark = pytest.mark.peers

CLASSES = {
    None: ("FlavaForPreTraining", True),
    "model": ("FlavaModel", True),
    "image": ("FlavaImageModel", True),
    "text": ("FlavaTextModel", False),
    "multimodal": ("FlavaMultimodalModel", False),
}


@pytest.mark.parametrize("part", CLASSES)
def test_the_config_names_the_class_and_images_have_their_preprocessor(tiny, tmp_path, part):
    """A class that takes no images gets no preprocessor_config.json."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part=part)
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "whole")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    name, takes_images = CLASSES[part]
    assert content["architectures"] == [name] and content["torch_dtype"] == "float32"
    preprocessor = tmp_path / "out" / "preprocessor_config.json"
    assert preprocessor.exists() is takes_images
    if takes_images:
        assert json.loads(preprocessor.read_text()) == preprocessor_json(read_config(tmp_path / "whole"), PARTS[part] if part else WHOLE)


def test_the_config_has_the_dtype_that_was_kept(tmp_path):
    """transformers 5 loads in the dtype that the config names."""
    half = {key: value.half() if value.is_floating_point() else value for key, value in tiny_state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    convert_flava_checkpoint(tmp_path / "half.pt", None, tmp_path / "out", dtype="keep")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


def test_what_differs_is_said_of_each_kind_of_head_with_its_size(tmp_path):
    """The size of the difference follows from the two epsilons."""
    torch.save(tiny_torchmultimodal(), tmp_path / "theirs.pt")
    converted = convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "out", head_layer_norm_eps=1e-3)
    assert converted.plan.differs == [
        f"{heads}: their layer norms had epsilon 0.001; transformers gives them their encoder's, 1e-12. What they normalise comes out larger "
        "by sqrt((v + 0.001) / (v + 1e-12)), v its variance: by 5.0e-03 of itself for v = 0.1; verify measures it"
        for heads in ("mim_head and mmm_image_head", "mlm_head and mmm_text_head")
    ]


def test_the_size_of_the_difference_follows_from_both_epsilons(tiny, tmp_path):
    """The encoders' epsilon is the one of their config."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["text_config"]["layer_norm_eps"] = config["image_config"]["layer_norm_eps"] = 0.02
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    torch.save(tiny_torchmultimodal(), tmp_path / "theirs.pt")
    converted = convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "out", tmp_path / "hf", head_layer_norm_eps=0.05)
    assert len(converted.plan.differs) == 2 and all("by 1.2e-01 of itself for v = 0.1" in line for line in converted.plan.differs)


def test_fields_of_a_given_config_that_are_nobodys_are_left_out_and_named(tiny, tmp_path):
    """At the top and in a section. Without a config none is."""
    plain = convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    assert plain.plan.left_out == [] and "neither FLAVA's" not in plain.summary()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["surprise"] = config["text_config"]["surprise"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    converted = convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out", tmp_path)
    assert sorted(converted.plan.left_out) == ["surprise", "text_config.surprise"]
    assert ": neither FLAVA's nor known to be harmless" in converted.summary()
    assert (tmp_path / "out" / "config.json").read_text() == (tmp_path / "hf" / "config.json").read_text()


@pytest.mark.parametrize(("scale", "kept"), [(0.0, False), (4.6, False), (-0.5, True), (5.0, True)])
def test_a_scale_that_torchmultimodal_would_clamp_is_said(tmp_path, scale, kept):
    """A scale within its bounds is not mentioned."""
    torch.save(tiny_torchmultimodal() | {"loss.contrastive_loss.logit_scale": torch.tensor(scale)}, tmp_path / "theirs.pt")
    converted = convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "out", head_layer_norm_eps=1e-12)
    assert converted.plan.differs == kept * [
        f"flava.logit_scale is {scale:g}: torchmultimodal clamps it to [0.0, 4.6052] in every forward pass, transformers 5 in training only; "
        "the value is kept, and the contrastive logits differ where it is not clamped"
    ]


def test_what_is_made_for_the_encoders_alone_is_said_with_its_reason(tmp_path):
    """torchmultimodal's `FLAVAModel` has no scale of the contrastive loss, which transformers' holds."""
    torch.save(tiny_torchmultimodal(bare=True), tmp_path / "theirs.pt")
    convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "out", part="model")
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    because = "2.6592, transformers' initial value: the checkpoint has none, and no output of FlavaModel shows it"
    assert record["made"] == {"flava.logit_scale": because}


def test_second_copies_of_another_part_are_outside_and_those_of_this_one_are_copies(tiny, tmp_path):
    """The record gives each its own reason."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="text")
    fates = json.loads((tmp_path / "out" / "conversion.json").read_text())["sources"]["checkpoint"]["keys"]
    assert fates["text_encoder.embeddings.LayerNorm.bias"] == {
        "dropped": "bit-equal to text_encoder.module.embeddings.LayerNorm.bias, which is kept"
    }
    assert fates["image_encoder.embeddings.cls_token"] == {"dropped": "outside of FlavaTextModel"}


def test_the_encoders_alone_keep_the_scale_that_the_checkpoint_has(tiny, tmp_path):
    """transformers' initial value is only for checkpoints without one."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="model")
    written = load_file(tmp_path / "out" / "model.safetensors")["logit_scale"]
    assert torch.equal(written, tiny_state_dict()["heads.cmd.clip_head.logit_scale"])


@pytest.mark.parametrize("codebook", [True, False])
def test_a_given_config_is_written_with_what_the_conversion_knows_better(tiny, tmp_path, codebook):
    """The conversion sets whether there is a codebook and that the heads are tied, and leaves all else as it was."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    given = config | {"tie_word_embeddings": False, "init_codebook": not codebook, "mim_weight": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(given))
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook if codebook else None, tmp_path / "out", tmp_path / "config.json")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {"init_codebook": codebook, "mim_weight": 0.5}


def test_a_folder_that_is_converted_on_keeps_its_own_config(tiny, tmp_path):
    """`--from hf` reads from the folder's config what no shape tells."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    convert_flava_checkpoint(tmp_path / "hf", None, tmp_path / "text", layout="hf", part="text")
    assert json.loads((tmp_path / "text" / "config.json").read_text())["hidden_act"] == "relu"
    convert_flava_checkpoint(tmp_path / "hf", None, tmp_path / "whole", layout="hf")
    assert read_config(tmp_path / "whole") == read_config(tmp_path / "hf")


def test_a_folder_of_the_encoders_alone_converts_as_such(tiny, tmp_path):
    """It is not taken for a whole model that lacks its heads."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "model", part="model")
    again = convert_flava_checkpoint(tmp_path / "model", None, tmp_path / "again", layout="hf")
    assert "FlavaModel" in again.summary()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_a_whole_models_folder_without_its_heads_is_no_folder_of_the_encoders(converted, tmp_path):
    """Its keys have the whole model's prefix; the message says how to convert the encoders, and that works."""
    (tmp_path / "headless").mkdir()
    encoders = {key: value for key, value in load_file(converted / "model.safetensors").items() if key.startswith("flava.")}
    save_file(encoders, tmp_path / "headless" / "model.safetensors", {"format": "pt"})
    (tmp_path / "headless" / "config.json").write_bytes((converted / "config.json").read_bytes())
    with pytest.raises(NotFaithful, match="there are no pretraining heads in it; --part model converts the encoders alone$"):
        convert_flava_checkpoint(tmp_path / "headless", None, tmp_path / "out", layout="hf")
    convert_flava_checkpoint(tmp_path / "headless", None, tmp_path / "out", layout="hf", part="model")
    assert_same_tensors({f"flava.{key}": value for key, value in load_file(tmp_path / "out" / "model.safetensors").items()}, encoders)


POSITIONS = {
    "too many": torch.arange(21)[None],
    "one row too many": torch.arange(20).repeat(2, 1),
    "no rows": torch.arange(20),
    "another order": torch.arange(20).flip(0)[None],
    "fractions": torch.arange(20)[None] + 0.5,
    "complex": torch.arange(20)[None].to(torch.complex64),
    "sparse": torch.arange(20)[None].to_sparse(),
}


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_position_ids_that_do_not_count_up_stop_the_conversion(run_command, tmp_path, positions):
    """The message names them and what belongs there."""
    torch.save(tiny_state_dict() | {"text_encoder.module.embeddings.position_ids": positions}, tmp_path / "flava.pt")
    ran = run_command(
        "convert", "--checkpoint_path", tmp_path / "flava.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out"
    )
    assert ran.status == 1 and "position_ids does not hold 0, 1, 2, ..., 19" in ran.err, ran.err


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float16, torch.float64])
def test_position_ids_count_up_in_any_dtype_that_can(run_command, tmp_path, dtype):
    """A checkpoint that was cast whole has them as floats."""
    state = {key: value.to(dtype) if "position_ids" in key else value for key, value in tiny_state_dict().items()}
    torch.save(state, tmp_path / "flava.pt")
    ran = run_command(
        "convert", "--checkpoint_path", tmp_path / "flava.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out"
    )
    assert ran.status == 0, ran.err


def shards(folder, state):
    """The state dict in a folder of two shards with their index."""
    folder.mkdir()
    keys = list(state)
    files = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, some in files.items():
        save_file({key: state[key].clone() for key in some}, folder / name)
    names = {key: name for name, some in files.items() for key in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_of_transformers_shards_the_config_beside_them_counts_if_it_is_there(tmp_path):
    """Without one the sizes come from the shapes, as for any checkpoint; with one its heads are believed."""
    folder = shards(tmp_path / "shards", hugging_face())
    convert_flava_checkpoint(folder, None, tmp_path / "without")
    config = read_config(tmp_path / "without")
    config["text_config"]["num_attention_heads"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    convert_flava_checkpoint(folder, None, tmp_path / "with")
    assert read_config(tmp_path / "with") == config


def test_a_folder_that_is_said_to_be_transformers_needs_its_config(tmp_path):
    """With --from hf a folder is a model of transformers', whose config says what no shape tells."""
    with pytest.raises(InvalidInput, match=r"config\.json"):
        convert_flava_checkpoint(shards(tmp_path / "shards", hugging_face()), None, tmp_path / "out", layout="hf")


def test_a_config_beside_shards_of_another_layout_is_not_read(tmp_path):
    """It may be anything."""
    folder = shards(tmp_path / "shards", tiny_torchmultimodal())
    (folder / "config.json").write_text("a trainer's settings")
    convert_flava_checkpoint(folder, None, tmp_path / "out")
    assert read_config(tmp_path / "out") == read_config_of(tmp_path, tiny_torchmultimodal())


def read_config_of(tmp_path, state):
    """The config that these weights get from one file."""
    torch.save(state, tmp_path / "theirs.pt")
    convert_flava_checkpoint(tmp_path / "theirs.pt", None, tmp_path / "from one file")
    return read_config(tmp_path / "from one file")
