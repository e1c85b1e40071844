"""The folder holds the original's values in a form that every release loads, with configs and a record of every key."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flava_port import InvalidInput, convert_flava_checkpoint
from flava_port.target.keys import HEADS
from tests.builders import loaded_weights, tiny_codebook, tiny_state_dict
from tests.comparing import assert_converted, assert_same_tensors


def test_every_value_is_the_one_the_original_had(converted):
    """The weights' file holds the original's bits, key by key."""
    assert_converted(converted, tiny_state_dict(), tiny_codebook())


def test_from_pretrained_ends_with_the_values_of_the_file(converted):
    """The installed transformers loads every key and changes none."""
    assert_same_tensors(loaded_weights(converted), load_file(converted / "model.safetensors"))


@pytest.mark.parametrize("head", HEADS)
def test_both_biases_of_a_head_are_there_and_equal(converted, head):
    """Releases differ in which of the two they read, so either must be right."""
    weights = load_file(converted / "model.safetensors")
    assert torch.equal(weights[f"{head}.bias"], weights[f"{head}.decoder.bias"])
    assert weights[f"{head}.bias"].abs().min() > 0


def test_the_weights_have_the_metadata_that_old_releases_ask_for(converted):
    """Releases up to 4.47.1 refuse a safetensors file without it."""
    with safe_open(converted / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert not any("position_ids" in key for key in file.keys())


def test_numbers_in_the_config_have_the_types_that_strict_releases_ask_for(converted):
    """Loss weights, dropouts and epsilons are floats, sizes are ints."""
    config = json.loads((converted / "config.json").read_text())
    assert type(config["mim_weight"]) is float and type(config["image_config"]["hidden_dropout_prob"]) is float
    assert type(config["text_config"]["vocab_size"]) is int and config["tie_word_embeddings"] is True


def test_the_record_accounts_for_every_source_key(converted, tiny):
    """Each key of both files has a target that exists or a reason for being dropped."""
    record = json.loads((converted / "conversion.json").read_text())
    weights = load_file(converted / "model.safetensors")
    for name, keys in (("checkpoint", tiny_state_dict()), ("codebook", tiny_codebook())):
        fates = record["sources"][name]["keys"]
        assert set(fates) == set(keys)
        assert all(fate["target"] in weights if "target" in fate else fate["dropped"] for fate in fates.values())
    assert record["sources"]["checkpoint"]["sha256"] == hashlib.sha256(tiny.checkpoint.read_bytes()).hexdigest()


def test_the_record_has_the_digest_of_every_tensor(converted):
    """The record has the sha256 of each tensor's bytes, so that anyone can check it later."""
    record = json.loads((converted / "conversion.json").read_text())["tensors"]
    weights = load_file(converted / "model.safetensors")
    assert set(record) == set(weights)
    for key, value in weights.items():
        assert record[key]["sha256"] == hashlib.sha256(value.numpy().tobytes()).hexdigest(), key


def test_weights_above_the_shard_size_are_split_and_indexed(tiny, run_command, tmp_path):
    """Each file is at most that large, the index names every key, and the model loads the same."""
    files = ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook]
    out = tmp_path / "out"
    assert run_command("convert", *files, "--pytorch_dump_folder_path", out, "--max-shard-size", "200KB").status == 0
    parts = sorted(out.glob("model-*.safetensors"))
    assert len(parts) > 2 and all(part.stat().st_size < 240_000 for part in parts)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    whole = {key: value for part in parts for key, value in load_file(part).items()}
    assert {key: load_file(out / name)[key].shape for key, name in index.items()} == {k: v.shape for k, v in whole.items()}
    assert_same_tensors(loaded_weights(out), whole)


def test_the_preprocessor_config_is_flavas_own_at_the_published_size(tmp_path):
    """At 224 pixels it says what the installed transformers' own processor says, which loads it."""
    pytest.importorskip("PIL", reason="image processing needs pillow: pip install pillow")
    from transformers import AutoImageProcessor, FlavaImageProcessor

    from flava_port.target.config import DEFAULTS
    from flava_port.target.preprocessor import preprocessor_json

    ours, theirs = preprocessor_json(DEFAULTS), json.loads(FlavaImageProcessor().to_json_string())
    different = {key: (ours[key], theirs[key]) for key in set(ours) & set(theirs) if ours[key] != theirs[key]}
    assert not different
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "flava"}))
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict()["codebook_size"] == {"height": 112, "width": 112}


def test_a_folder_that_exists_stays_unless_replacing_it_is_asked_for(tiny, tmp_path):
    """`force` is off by default."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InvalidInput, match="already exists"):
        convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_source_inside_of_the_target_is_never_replaced_by_it(tiny, tmp_path, which):
    """Not even `force` replaces a folder that holds the checkpoint, the codebook or the config."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    files = [tiny.checkpoint, tiny.codebook, tmp_path / "hf" / "config.json"]
    (tmp_path / "out").mkdir()
    inside = files[which] = Path(shutil.copy(files[which], tmp_path / "out"))
    with pytest.raises(InvalidInput, match=f"would delete .*{inside.name}"):
        convert_flava_checkpoint(files[0], files[1], tmp_path / "out", files[2], force=True)
    assert inside.exists()


def test_a_dtype_that_is_none_is_refused(tiny, tmp_path):
    """The message names those that are written."""
    with pytest.raises(InvalidInput, match="^dtype 'float16' is none of float32, keep$"):
        convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out", dtype="float16")
