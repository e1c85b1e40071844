"""A part of the model converts from any layout and loads in transformers' class of its own."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flava_port import convert_flava_checkpoint
from flava_port.target.parts import PARTS
from tests.builders import from_pretrained
from tests.comparing import assert_same_tensors
from tests.rules.grammar import tiny_torchmultimodal

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def sources(tiny, tmp_path_factory):
    """The same model in every layout, each with its flags for `convert`."""
    folder = tmp_path_factory.mktemp("sources")
    torch.save(tiny_torchmultimodal(), folder / "theirs.pt")
    torch.save(tiny_torchmultimodal(bare=True), folder / "bare.pt")
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder / "hf")
    return {
        "original": ["--checkpoint_path", tiny.checkpoint],
        "torchmultimodal": ["--checkpoint_path", folder / "theirs.pt"],
        "torchmultimodal, bare": ["--checkpoint_path", folder / "bare.pt", "--from", "torchmultimodal"],
        "hf": ["--checkpoint_path", folder / "hf", "--from", "hf"],
    }


@pytest.fixture(scope="module")
def whole(sources):
    """The weights of the whole model, converted."""
    return load_file(sources["hf"][1] / "model.safetensors")


LAYOUTS = ("original", "torchmultimodal", "torchmultimodal, bare", "hf")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PARTS)
def test_a_part_loads_in_its_own_class_with_the_whole_models_weights(run_command, sources, whole, tmp_path, layout, name):
    """`from_pretrained` reports no key missing, left over or misshapen, and ends with the same bits."""
    part = PARTS[name]
    ran = run_command("convert", *sources[layout], "--part", name, "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and f"for {part.model_class}" in ran.out, ran.err
    expected = {key.removeprefix(part.prefix): value for key, value in whole.items() if key.startswith(part.prefix)}
    if layout == "torchmultimodal, bare" and name == "model":
        assert "made     flava.logit_scale: 2.6592" in ran.out
        expected["logit_scale"] = torch.tensor(2.6592)
    loaded = from_pretrained(tmp_path / "out", part.model_class).state_dict()
    assert_same_tensors({key: value for key, value in loaded.items() if not key.endswith("position_ids")}, expected)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [part.model_class]
    assert config["model_type"] == {"model": "flava"}.get(name, f"flava_{name}_model")


@pytest.mark.parametrize("name", ["image", "text", "multimodal", "model"])
def test_a_part_computes_what_the_whole_model_does(run_command, sources, tmp_path, name):
    """On the same inputs, its outputs are equal to the bit."""
    run_command("convert", *sources["original"], "--part", name, "--pytorch_dump_folder_path", tmp_path / "out")
    part, model = from_pretrained(tmp_path / "out", PARTS[name].model_class), from_pretrained(sources["hf"][1]).flava
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    with torch.no_grad():
        both = {
            "image": lambda m, inner: inner(pixels),
            "text": lambda m, inner: inner(ids),
            "multimodal": lambda m, inner: inner(torch.linspace(-1, 1, 640).reshape(2, 5, 64)),
            "model": lambda m, inner: m(input_ids=ids, pixel_values=pixels).multimodal_output,
        }[name]
        whole_s = getattr(model, f"{name}_model", model)
        assert torch.equal(both(part, part).last_hidden_state, both(model, whole_s).last_hidden_state)


def test_a_bare_model_converts_to_flavamodel_unasked_and_back(run_command, sources, tmp_path):
    """The summary says so, and the file that comes back is the one that went in."""
    ran = run_command("convert", *sources["torchmultimodal, bare"][:2], "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and "FLAVAModel (encoders alone)" in ran.out and "for FlavaModel" in ran.out
    ran = run_command("revert", "--converted_path", tmp_path / "out", "--to", "torchmultimodal", "--checkpoint_path", tmp_path / "back.pt")
    assert ran.status == 0, ran.err
    assert_same_tensors(torch.load(tmp_path / "back.pt", weights_only=True), tiny_torchmultimodal(bare=True))


def test_the_original_has_no_layout_for_encoders_alone(run_command, sources, tmp_path):
    """The message names the layout that has one, and nothing is written."""
    ran = run_command("revert", "--converted_path", sources["torchmultimodal, bare"][1], "--checkpoint_path", tmp_path / "back.pt")
    assert ran.status == 2 and "--to torchmultimodal has" in ran.err and not list(tmp_path.iterdir())


def test_a_part_takes_no_codebook(run_command, sources, tiny, tmp_path):
    """A weight that the part lacks is still missed."""
    ran = run_command(
        "convert", *sources["original"], "--codebook_path", tiny.codebook, "--part", "image", "--pytorch_dump_folder_path", tmp_path / "out"
    )
    assert ran.status == 2 and "has no codebook" in ran.err
    state = tiny_torchmultimodal()
    del state["model.mm_encoder.cls_token"]
    torch.save(state, tmp_path / "less.pt")
    flags = ["--checkpoint_path", tmp_path / "less.pt", "--pytorch_dump_folder_path", tmp_path / "out"]
    ran = run_command("convert", *flags, "--part", "multimodal")
    assert ran.status == 1 and "missing model.mm_encoder.cls_token" in ran.err
    assert run_command("convert", *flags, "--part", "image").status == 0


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("layout", [pytest.param("original", marks=pytest.mark.slow), "hf"])
def test_what_is_converted_of_a_part_is_proven_with_it(run_command, sources, tmp_path, name, layout):
    """`convert --verify` proves keys, values, config and what the part's own class loads, and says what it did not look at."""
    ran = run_command("convert", *sources[layout], "--part", name, "--verify", "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0, ran.out + ran.err
    of = PARTS[name].model_class
    assert f"verdict: proven (of {of}'s weights, configs and loading; not looked at: the computation" in ran.out
    assert ("4 head biases" in ran.out) is False and f"{of} has none" in ran.out
