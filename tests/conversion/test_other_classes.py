"""`repair` and `revert` take the folders of every class, and of models that were trained further; what is not FLAVA's is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava_port import convert_flava_checkpoint
from flava_port.codebook import convert_dalle_checkpoint
from flava_port.target.parts import PARTS
from tests.builders import from_pretrained, tiny_codebook
from tests.comparing import assert_same_tensors
from tests.conversion.repair_forms import no_format, old_names, pickled

WEIGHTS = "model.safetensors"


def a_folder(name, tiny, tmp_path):
    """The folder of a part, or of the codebook."""
    if name == "codebook":
        convert_dalle_checkpoint(tiny.codebook, tmp_path / name)
    else:
        convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / name, part=name)
    return tmp_path / name


CLASSES = {**{name: part.model_class for name, part in PARTS.items()}, "codebook": "FlavaImageCodebook"}


@pytest.mark.parametrize("name", CLASSES)
def test_repair_rewrites_the_folder_of_any_class(name, tiny, tmp_path, run_command):
    """Pickled weights without a format become what was converted, and the class loads them."""
    folder = a_folder(name, tiny, tmp_path)
    right = load_file(folder / WEIGHTS)
    for change in (no_format, pickled):
        change(folder)
    ran = run_command("repair", "--converted_path", folder)
    assert ran.status == 0 and "pickled weights, written as safetensors" in ran.out, ran.err
    assert_same_tensors(load_file(folder / WEIGHTS), right)
    from_pretrained(folder, CLASSES[name])
    assert "nothing was changed" in run_command("repair", "--converted_path", folder).out


def test_repair_mends_old_names_in_the_text_encoders_folder(tiny, tmp_path, run_command):
    """gamma and beta, as releases from 5.0.0 to 5.3.0 write them."""
    folder = a_folder("text", tiny, tmp_path)
    right = load_file(folder / WEIGHTS)
    state = dict(right)
    old_names(state)
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    assert run_command("repair", "--converted_path", folder).status == 0
    assert_same_tensors(load_file(folder / WEIGHTS), right)


@pytest.fixture
def tuned(folder, tmp_path):
    """A classifier in place of two of the pretraining heads, in a folder whose weights ask for repair."""
    state = {key: value for key, value in load_file(folder / WEIGHTS).items() if not key.startswith(("mim_head.", "itm_head."))}
    state |= {"classifier.weight": torch.randn(3, 64), "classifier.bias": torch.randn(3)}
    save_file(state, folder / WEIGHTS)  # without the format that older releases ask for
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["FlavaForThree"], "num_classes": 3}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_repair_keeps_heads_of_ones_own_and_names_those_that_are_lacking(tuned, run_command):
    """Every value stays, the class stays the user's, and the report names both."""
    right = load_file(tuned / WEIGHTS)
    ran = run_command("repair", "--converted_path", tuned)
    assert ran.status == 0, ran.err
    assert (
        "itm_head, mim_head: not in the folder" in ran.out
        and "classifier.bias, classifier.weight: 2 tensors of heads that FLAVA has not" in ran.out
    )
    assert_same_tensors(load_file(tuned / WEIGHTS), right)
    config = json.loads((tuned / "config.json").read_text())
    assert config["architectures"] == ["FlavaForThree"] and config["num_classes"] == 3


def test_revert_writes_what_is_flavas_and_names_the_rest(tuned, tmp_path, run_command):
    """The checkpoint lacks the lacking heads and the classifier."""
    files = "--checkpoint_path", tmp_path / "back.pt", "--codebook_path", tmp_path / "codes.pt"
    ran = run_command("revert", "--converted_path", tuned, *files)
    assert ran.status == 0, ran.err
    assert "itm_head, mim_head: not in the folder" in ran.out and "such heads are left out" in ran.out
    keys = torch.load(tmp_path / "back.pt").keys()
    assert not any("itm_head" in key or "imagenet" in key or "classifier" in key for key in keys)
    assert "heads.fairseq_mlm.cls.predictions.bias" in keys


def test_a_codebook_alone_reverts_to_openais_names(tiny, tmp_path, run_command):
    """The checkpoint that is written is the encoder's state dict."""
    folder = a_folder("codebook", tiny, tmp_path)
    ran = run_command("revert", "--converted_path", folder, "--checkpoint_path", tmp_path / "codes.pt")
    assert ran.status == 0, ran.err
    assert_same_tensors(torch.load(tmp_path / "codes.pt"), tiny_codebook())
    two = "--checkpoint_path", tmp_path / "one.pt", "--codebook_path", tmp_path / "two.pt"
    ran = run_command("revert", "--converted_path", folder, *two)
    assert ran.status == 2 and "holds a codebook alone" in ran.err and not (tmp_path / "two.pt").exists()


@pytest.mark.parametrize("name", PARTS)
def test_encoders_alone_revert_to_torchmultimodal_and_convert_again(name, tiny, tmp_path, run_command):
    """And the original's layout, which has no place for them, is refused."""
    folder = a_folder(name, tiny, tmp_path)
    ran = run_command("revert", "--converted_path", folder, "--checkpoint_path", tmp_path / "back.pt")
    assert ran.status == 2 and "for which the original has no layout; --to torchmultimodal has" in ran.err
    ran = run_command("revert", "--converted_path", folder, "--checkpoint_path", tmp_path / "back.pt", "--to", "torchmultimodal")
    assert ran.status == 0, ran.err
    convert_flava_checkpoint(tmp_path / "back.pt", None, tmp_path / "again", folder / "config.json", part=name)
    actual, expected = load_file(tmp_path / "again" / WEIGHTS), load_file(folder / WEIGHTS)
    for state in (actual, expected):
        state.pop("logit_scale", None)  # which torchmultimodal's FLAVAModel has not
    assert_same_tensors(actual, expected)
