"""The functions that transformers 4.20.0 to 4.47.1 shipped have their names, signatures and results here."""

import inspect

import pytest
import torch
from safetensors.torch import load_file

import flava_port.codebook
import flava_port.convert
from flava_port import InvalidInput, NotFaithful
from tests.builders import from_pretrained, tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors

SIGNATURES = {
    flava_port.convert.convert_flava_checkpoint: "checkpoint_path, codebook_path, pytorch_dump_folder_path, config_path",
    flava_port.convert.upgrade_state_dict: "state_dict, codebook_state_dict",
    flava_port.convert.count_parameters: "state_dict",
    flava_port.codebook.convert_dalle_checkpoint: "checkpoint_path, pytorch_dump_folder_path, config_path, save_checkpoint",
    flava_port.codebook.upgrade_state_dict: "state_dict",
    flava_port.codebook.count_parameters: "state_dict",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_positional_arguments_are_upstreams(function):
    """A script that called them from transformers runs with ours."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert ", ".join(positional) == SIGNATURES[function]


def test_upgraded_state_dicts_are_what_the_converted_model_holds(tiny, tmp_path):
    """The functions in memory and the conversion of files agree."""
    codebook = flava_port.codebook.upgrade_state_dict(tiny_codebook())
    upgraded = flava_port.convert.upgrade_state_dict(tiny_state_dict(), codebook)
    flava_port.convert.convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    del upgraded["flava.text_model.embeddings.position_ids"]
    assert_same_tensors(upgraded, load_file(tmp_path / "out" / "model.safetensors"))


def test_counting_parameters_sums_values_and_skips_second_copies():
    """It sums values and counts none, as upstream's function did despite its name."""
    state_dict = {"a.weight": torch.tensor([1.5, 2.0]), "text_encoder.embeddings.x": torch.tensor([100.0])}
    assert flava_port.convert.count_parameters(state_dict) == 3.5


def test_the_codebook_converts_to_a_state_dict_without_being_saved(tiny):
    """With save_checkpoint=False the converted state dict is returned."""
    state_dict = flava_port.codebook.convert_dalle_checkpoint(tiny.codebook, None, save_checkpoint=False)
    assert_same_tensors(state_dict, flava_port.codebook.upgrade_state_dict(tiny_codebook()))


def test_the_codebook_converts_to_a_folder_of_its_own(tiny, run_command, tmp_path):
    """FlavaImageCodebook.from_pretrained loads it exactly."""
    out = tmp_path / "codebook"
    ran = run_command("convert-codebook", "--checkpoint_path", tiny.codebook, "--pytorch_dump_folder_path", out)
    assert ran.status == 0, ran.err
    assert_same_tensors(from_pretrained(out, "FlavaImageCodebook").state_dict(), load_file(out / "model.safetensors"))


def test_a_config_that_contradicts_the_codebook_stops_it(tiny, tmp_path):
    """The message names the field, the config's value and the one that the shapes show."""
    (tmp_path / "config.json").write_text('{"model_type": "flava_image_codebook", "vocab_size": 41}')
    with pytest.raises(NotFaithful, match="vocab_size = 41, but .* shows 40"):
        flava_port.codebook.convert_dalle_checkpoint(tiny.codebook, tmp_path / "out", tmp_path)


def test_an_already_converted_state_dict_is_refused():
    """Renaming it again would lose keys in silence."""
    codebook = flava_port.codebook.upgrade_state_dict(tiny_codebook())
    upgraded = flava_port.convert.upgrade_state_dict(tiny_state_dict(), codebook)
    with pytest.raises(InvalidInput, match="already converted"):
        flava_port.convert.upgrade_state_dict(upgraded, codebook)
    with pytest.raises(InvalidInput, match="already converted"):
        flava_port.codebook.upgrade_state_dict(codebook)
