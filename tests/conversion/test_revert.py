"""A FLAVA folder of any release goes back to the original's layout."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava_port import InvalidInput, NotFaithful, revert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor, load
from flava_port.target.keys import HEADS, POSITION_IDS
from tests.builders import tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors


@pytest.fixture
def model_folder(converted, tmp_path):
    """A model folder with a config and no weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((converted / "config.json").read_bytes())
    return tmp_path / "model"


def _revert(folder):
    files = folder.parent / "back.pt", folder.parent / "codes.pt"
    revert_flava_checkpoint(folder, *files)
    return tuple(torch.load(file, weights_only=True) for file in files)


def _without(weights: dict, suffix: str) -> dict:
    return {key: value for key, value in weights.items() if key not in {f"{head}.{suffix}" for head in HEADS}}


# Which keys of a head's bias a file has, by the release that wrote it (measured with 4.19.0 to 5.23.0).
WRITTEN = {
    "4.35 to 4.57: no decoder.bias": lambda weights: _without(weights, "decoder.bias"),
    "5.0 to 5.3: gamma and beta": lambda weights: {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in weights.items()
    },
    "5.1 and later: no bias": lambda weights: _without(weights, "bias"),
    "4.30 and before: position_ids": lambda weights: {**weights, POSITION_IDS: torch.arange(20)[None]},
}


@pytest.mark.parametrize("release", WRITTEN)
def test_what_any_release_saved_is_read_right(model_folder, converted, release):
    """With one bias key or two, with position_ids or without, the original is the same."""
    save_file(WRITTEN[release](load_file(converted / "model.safetensors")), model_folder / "model.safetensors", {"format": "pt"})
    state_dict, codebook = _revert(model_folder)
    assert_same_tensors(state_dict, tiny_state_dict())
    assert_same_tensors(codebook, tiny_codebook())


def test_a_bin_file_is_read_without_unpickling_it(model_folder, converted):
    """Releases before 4.35 wrote such files."""
    torch.save(load_file(converted / "model.safetensors"), model_folder / "pytorch_model.bin")
    assert_same_tensors(_revert(model_folder)[0], tiny_state_dict())


def test_a_sharded_folder_is_read_by_its_index(model_folder, converted):
    """Every file that the index names is read."""
    weights = load_file(converted / "model.safetensors")
    names = {key: f"model-{1 + (key < 'flava.t')}-of-2.safetensors" for key in weights}
    for name in set(names.values()):
        save_file({key: weights[key] for key in names if names[key] == name}, model_folder / name, {"format": "pt"})
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert_same_tensors(_revert(model_folder)[0], tiny_state_dict())


def test_an_index_that_names_a_file_elsewhere_is_refused(model_folder):
    """A folder cannot make us read files outside of it."""
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InvalidInput, match="does not lie beside it"):
        _revert(model_folder)


def test_the_reverted_checkpoint_ties_what_the_original_ties(model_folder, converted):
    """Second copies and both biases of a head are one storage, so that the file is no larger."""
    save_file(load_file(converted / "model.safetensors"), model_folder / "model.safetensors", {"format": "pt"})
    state_dict, _ = _revert(model_folder)
    head = "heads.cmd.mlm_head.cls.predictions"
    assert state_dict[f"{head}.bias"].data_ptr() == state_dict[f"{head}.decoder.bias"].data_ptr()
    words = "embeddings.word_embeddings.weight"
    assert state_dict[f"text_encoder.{words}"].data_ptr() == state_dict[f"text_encoder.module.{words}"].data_ptr()


def test_biases_that_came_apart_stop_it(model_folder, converted):
    """Releases from 5.1.0 on load such a file untied; the original has no place for two values."""
    weights = load_file(converted / "model.safetensors")
    weights["mim_head.bias"] = weights["mim_head.bias"] + 1
    save_file(weights, model_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotFaithful, match=r"one bias under two keys differs: mim_head\.bias and mim_head\.decoder\.bias, first at \[0\]"):
        _revert(model_folder)
    assert not (model_folder.parent / "back.pt").exists() and not list(model_folder.parent.glob(".*"))


BIAS = "itm_head.pooler.dense.bias"
MISSING = f"missing {BIAS}: the checkpoint has no tensor for it, shape [64]"
MISFITS = {
    "missing": (lambda bias: {}, [MISSING]),
    "extra": (lambda bias: {"flava.more": bias}, ["unexpected flava.more (checkpoint): the model has no place for it", MISSING]),
    "shape": (lambda bias: {BIAS: bias[:5].clone()}, [f"wrong shape: {BIAS} (checkpoint) is [5], the model's {BIAS} is [64]"]),
}


@pytest.mark.parametrize(("edit", "lines"), MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit_the_config_stop_it(model_folder, converted, edit, lines):
    """The message names the key, in transformers' layout alone."""
    weights = load_file(converted / "model.safetensors")
    weights |= edit(weights.pop(BIAS))
    save_file(weights, model_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotFaithful) as stopped:
        _revert(model_folder)
    assert str(stopped.value).splitlines()[1:] == [f"  {line}" for line in lines]


def test_a_model_without_a_codebook_reverts_to_one_file(tiny, run_command, tmp_path):
    """What was converted with `--no-codebook` reverts without `--codebook_path`."""
    out, back = tmp_path / "out", tmp_path / "back.pt"
    ran = run_command("convert", "--checkpoint_path", tiny.checkpoint, "--no-codebook", "--pytorch_dump_folder_path", out)
    assert ran.status == 0 and json.loads((out / "config.json").read_text())["init_codebook"] is False
    assert run_command("revert", "--converted_path", out, "--checkpoint_path", back).status == 0
    assert_same_tensors(torch.load(back, weights_only=True), tiny_state_dict())


FAULTS = {
    "another dtype": lambda tensor: load(tensor).view(torch.int32),
    "another shape": lambda tensor: load(tensor)[None],
    "one element": lambda tensor: load(tensor).flatten()[:1],
    "another value": lambda tensor: load(tensor) + 1,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_was_written_wrong_never_appears(fault, converted, model_folder, monkeypatch):
    """What was written is read back, and its dtype, shape and values are compared."""
    (model_folder / "model.safetensors").write_bytes((converted / "model.safetensors").read_bytes())
    key = "text_projection.bias"

    def write_wrong(path, content, *rest):
        wrong = {key: MemoryTensor(FAULTS[fault](content[key]))} if key in content else {}
        write_torch_zip(path, {**content, **wrong}, *rest)

    monkeypatch.setattr("flava_port.conversion.checkpoints.write_torch_zip", write_wrong)
    with pytest.raises(NotFaithful, match=f"{key} read back is not what was written"):
        _revert(model_folder)
    assert [path.name for path in model_folder.parent.iterdir()] == ["model"]
