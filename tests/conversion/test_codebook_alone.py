"""A DALL-E encoder converts on its own, for `FlavaImageCodebook`."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from flava_port.codebook import convert_dalle_checkpoint, upgrade_state_dict
from flava_port.errors import InvalidInput, NotFaithful
from flava_port.target.config import DEFAULTS
from tests.builders import TINY_CODEBOOK, from_pretrained, tiny_codebook
from tests.comparing import assert_same_tensors


def test_the_config_is_the_codebooks_own(tiny, tmp_path):
    """It has the codebook's class, its sizes and the dtype to load in, and `from_pretrained` makes no weight anew."""
    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
    sizes = {"hidden_size": TINY_CODEBOOK.hidden_size, "vocab_size": TINY_CODEBOOK.vocab_size}
    expected = {"architectures": ["FlavaImageCodebook"], **DEFAULTS["image_codebook_config"], **sizes, "torch_dtype": "float32"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected
    from_pretrained(tmp_path / "out", "FlavaImageCodebook")


def test_the_record_names_the_file_as_the_codebook(tiny, tmp_path):
    """The record assumes nothing, as every size of a codebook shows in its shapes."""
    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert list(record["sources"]) == ["codebook"] and record["sources"]["codebook"]["file"] == "encoder.pkl"
    assert record["assumed"] == []


def test_other_precisions_become_float32(tmp_path):
    """Half precision widens and double precision is rounded."""
    codebook = tiny_codebook()
    torch.save({key: value.half() if "conv_1" in key else value.double() for key, value in codebook.items()}, tmp_path / "codes.pt")
    convert_dalle_checkpoint(tmp_path / "codes.pt", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32}


def test_a_folder_that_exists_stays_unless_replacing_it_is_asked_for(tiny, tmp_path):
    """`force` is off by default."""
    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
    before = load_file(tmp_path / "out" / "model.safetensors")
    torch.save({key: value + 1 for key, value in tiny_codebook().items()}, tmp_path / "codes.pt")
    with pytest.raises(InvalidInput, match="already exists"):
        convert_dalle_checkpoint(tmp_path / "codes.pt", tmp_path / "out")
    assert_same_tensors(load_file(tmp_path / "out" / "model.safetensors"), before)
    convert_dalle_checkpoint(tmp_path / "codes.pt", tmp_path / "out", force=True)
    assert not torch.equal(load_file(tmp_path / "out" / "model.safetensors")["blocks.input.weight"], before["blocks.input.weight"])


def test_a_source_inside_of_the_target_is_never_replaced_by_it(tmp_path):
    """Not even `force` replaces a folder that holds what is converted."""
    (tmp_path / "out").mkdir()
    torch.save(tiny_codebook(), tmp_path / "out" / "codes.pt")
    with pytest.raises(InvalidInput, match=r"would delete \S*codes\.pt"):
        convert_dalle_checkpoint(tmp_path / "out" / "codes.pt", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "codes.pt").exists()


def test_a_folder_must_be_named_where_one_is_made(tiny):
    """The message says what to pass for the state dict alone."""
    with pytest.raises(InvalidInput, match="^name the folder to make, or pass save_checkpoint=False for the state dict alone$"):
        convert_dalle_checkpoint(tiny.codebook, None)


def test_its_missing_key_is_named_in_both_layouts(tmp_path):
    """The message says that the codebook lacks it, not the checkpoint."""
    torch.save({key: value for key, value in tiny_codebook().items() if key != "blocks.input.b"}, tmp_path / "codes.pt")
    with pytest.raises(NotFaithful) as stopped:
        convert_dalle_checkpoint(tmp_path / "codes.pt", tmp_path / "out")
    assert str(stopped.value).splitlines()[1:] == [
        "  missing blocks.input.b: the codebook has no tensor for image_codebook.blocks.input.bias, shape [8]"
    ]


def test_a_config_inside_of_the_target_is_never_replaced_by_it(tiny, tmp_path):
    """Not even `force` replaces a folder that holds the config."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"would delete \S*config\.json"):
        convert_dalle_checkpoint(tiny.codebook, tmp_path / "out", tmp_path / "out" / "config.json", force=True)


def test_where_the_encoder_stands_can_be_said(tmp_path):
    """By its container, and by the prefix of its keys; each chooses one of two."""
    other = {key: value + 1 for key, value in tiny_codebook().items()}
    torch.save({"first": tiny_codebook(), "second": other}, tmp_path / "containers.pt")
    torch.save({**tiny_codebook(), **{f"second.{key}": value for key, value in other.items()}}, tmp_path / "prefixes.pt")
    by_container = convert_dalle_checkpoint(tmp_path / "containers.pt", None, save_checkpoint=False, container="second")
    by_prefix = convert_dalle_checkpoint(tmp_path / "prefixes.pt", None, save_checkpoint=False, prefix="second.")
    for found in (by_container, by_prefix):
        assert_same_tensors(found, upgrade_state_dict(other))


@pytest.mark.parametrize("save_checkpoint", [True, False])
def test_a_config_that_contradicts_the_shapes_stops_it(tiny, tmp_path, save_checkpoint):
    """With or without a folder to write."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "flava_image_codebook", "vocab_size": TINY_CODEBOOK.vocab_size + 1}))
    with pytest.raises(NotFaithful, match="vocab_size"):
        convert_dalle_checkpoint(tiny.codebook, tmp_path / "out", tmp_path / "config.json", save_checkpoint)


def test_progress_is_told(tiny, tmp_path):
    """To whatever is passed for it."""
    told = []

    @contextmanager
    def progress(what, _total):
        told.append(what)
        yield lambda count: None

    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out", progress=progress)
    assert told
