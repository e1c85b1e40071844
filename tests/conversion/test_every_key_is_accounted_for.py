"""A missing, extra, duplicate or misshapen key stops the conversion, and so does a copy that is none."""

import json
from dataclasses import replace

import pytest
import torch

from flava_port import NotFaithful, convert_flava_checkpoint, upgrade_state_dict
from flava_port.conversion.account import account, counts_up, rename_all
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import MemoryTensor
from flava_port.reading.sources import StateDict
from flava_port.rules.layouts import Layout
from tests.builders import tiny_state_dict

QUERY = "text_encoder.module.encoder.layer.1.attention.attention.query.weight"
CONVERTED_QUERY = "flava.text_model.encoder.layer.1.attention.attention.query.weight"
WORDS = "text_encoder.embeddings.word_embeddings.weight"
HEAD = "heads.cmd.mlm_head.cls.predictions"


@pytest.fixture
def convert(tiny, tmp_path):
    """Saves a state dict and converts it; gives the error's text, or None."""

    def run(state_dict, **options) -> str | None:
        torch.save(state_dict, tmp_path / "edited.pt")
        try:
            convert_flava_checkpoint(tmp_path / "edited.pt", tiny.codebook, tmp_path / "out", **options)
        except NotFaithful as error:
            assert not (tmp_path / "out").exists()
            return str(error)
        return None

    return run


def test_second_copies_that_differ_stop_it_with_the_first_differing_element(convert):
    """Dropping one of two different tensors would lose the other."""
    edited = tiny_state_dict()
    edited[WORDS] = edited[WORDS].clone()
    edited[WORDS][3, 5] += 1
    message = convert(edited)
    assert WORDS in message and WORDS.replace("encoder.", "encoder.module.", 1) in message and "[3, 5]" in message


def test_a_second_copy_without_a_first_stops_it(convert):
    """Dropping it would lose it, as it is kept nowhere else."""
    edited = tiny_state_dict()
    edited["text_encoder.embeddings.extra.weight"] = torch.ones(2)
    assert "there is no text_encoder.module.embeddings.extra.weight" in convert(edited)


def test_position_ids_that_do_not_count_up_stop_it(convert):
    """The model would compute others in their place."""
    edited = tiny_state_dict()
    for key in ("text_encoder.module.embeddings.position_ids", "text_encoder.embeddings.position_ids"):
        edited[key] = edited[key].flip(1)
    assert "position_ids does not hold 0, 1, 2, ..., 19" in convert(edited)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_position_ids_count_up_as_their_dtype_has_it(dtype, tmp_path):
    """A checkpoint that was cast whole is the same model: bfloat16 rounds 257 to 256, and that still counts up."""
    torch.save({"ids": torch.arange(512)[None].to(dtype), "others": torch.arange(1, 513)[None].to(dtype)}, tmp_path / "file")
    tensors = open_checkpoint(tmp_path / "file").tensors
    assert counts_up(tensors["ids"], 512) and not counts_up(tensors["ids"], 511) and not counts_up(tensors["others"], 512)


def test_whole_numbers_that_wrap_around_do_not_count_up(tmp_path):
    """Eight bits hold no 255; another number stands in its place."""
    torch.save({"ids": torch.arange(256).to(torch.int8)[None]}, tmp_path / "ids.pt")
    assert not counts_up(open_checkpoint(tmp_path / "ids.pt").tensors["ids"], 256)


def test_position_ids_may_be_absent(convert):
    """A checkpoint without them converts, as the model computes them."""
    assert convert({key: value for key, value in tiny_state_dict().items() if "position_ids" not in key}) is None


def test_second_copies_may_be_absent(convert):
    """Only the copies under the modules are needed."""
    assert convert({k: v for k, v in tiny_state_dict().items() if "_encoder.embeddings." not in k}) is None


@pytest.mark.parametrize("missing", [f"{HEAD}.bias", f"{HEAD}.decoder.bias"])
def test_a_head_bias_may_come_under_either_key(convert, missing):
    """The other key is filled from the one that is there."""
    assert convert({key: value for key, value in tiny_state_dict().items() if key != missing}) is None


def test_a_head_bias_that_differs_between_its_keys_stops_it(convert):
    """They are one tensor, and which of two values a release would read differs between releases."""
    edited = tiny_state_dict()
    edited[f"{HEAD}.bias"] = edited[f"{HEAD}.bias"] + 1
    message = convert(edited)
    assert f"{HEAD}.bias" in message and f"{HEAD}.decoder.bias" in message and "first at [0]" in message


def test_a_missing_key_is_named_in_both_layouts(convert):
    """The message names it in the original's layout and in transformers', with the nearest key to spare in the file."""
    edited = tiny_state_dict()
    edited[QUERY.replace("query", "qury")] = edited.pop(QUERY)
    message = convert(edited)
    assert f"missing {QUERY}: the checkpoint has no tensor for flava.text_model.encoder.layer.1" in message
    assert "qury.weight (checkpoint, rule 11)" in message


def test_a_key_that_no_rule_places_is_named_with_its_nearest(convert):
    """A stray key is never left out without a word."""
    message = convert({**tiny_state_dict(), "image_projektion.weight": torch.ones(2)})
    assert "image_projektion.weight (checkpoint, no rule): the model has no place for it" in message


def test_two_sources_of_one_target_stop_it(convert):
    """An already renamed key beside its original is reported with both keys."""
    edited = tiny_state_dict()
    edited["mmm_text_head.bias"] = edited[f"{HEAD}.bias"] + 1
    expected = f"mmm_text_head.bias (checkpoint, no rule) and {HEAD}.bias (checkpoint, rule 2) both become mmm_text_head.bias"
    assert expected in convert(edited)


def test_a_wrong_shape_is_named_with_both_shapes(convert):
    """Most weights decide a size, and the one that disagrees with them is reported."""
    edited = tiny_state_dict()
    edited[QUERY] = torch.randn(64, 63)
    message = convert(edited)
    assert f"wrong shape: {QUERY} (checkpoint, rule 11) is [64, 63]" in message and "is [64, 64]" in message


def test_float64_values_too_large_for_float32_stop_it(convert):
    """They would become infinite."""
    edited = tiny_state_dict()
    edited[QUERY] = edited[QUERY].double() * 1e300
    assert "too large for float32; pass --dtype keep" in convert(edited)
    assert convert(edited, dtype="keep") is None


def test_all_problems_with_keys_are_reported_together(convert):
    """One message has the duplicate, extra, missing and misshapen keys and the wrong dtype."""
    edited = tiny_state_dict() | {"zzz": torch.ones(2), "mmm_text_head.bias": torch.ones(40)}
    del edited["heads.cmd.itm_head.pooler.dense.bias"]
    edited[QUERY] = torch.randn(64, 63)
    edited["image_projection.weight"] = edited["image_projection.weight"].to(torch.int32)
    assert convert(edited).splitlines() == [
        "cannot be converted faithfully:",
        f"  mmm_text_head.bias (checkpoint, no rule) and {HEAD}.bias (checkpoint, rule 2) both become mmm_text_head.bias",
        "  unexpected zzz (checkpoint, no rule): the model has no place for it",
        "  missing heads.cmd.itm_head.pooler.dense.bias: the checkpoint has no tensor for itm_head.pooler.dense.bias, shape [64]",
        f"  wrong shape: {QUERY} (checkpoint, rule 11) is [64, 63], the model's {CONVERTED_QUERY} is [64, 64]",
        "  wrong dtype: image_projection.weight (checkpoint, rule 15) is int32; weights are float16, bfloat16, float32 or float64",
    ]


class Unreadable(MemoryTensor):
    """A tensor whose values must not be asked for."""

    def chunks(self):
        raise AssertionError("a value was read")


def test_no_value_is_read_before_all_shapes_are_right():
    """Two copies of a wrong shape, which may be of any size, are not compared."""
    tensor = Unreadable(torch.ones(3))
    state = StateDict("checkpoint", Layout.ORIGINAL, {WORDS: tensor, WORDS.replace("encoder.", "encoder.module.", 1): replace(tensor)})
    with pytest.raises(NotFaithful, match=r"wrong shape: .* is \[3\], the model's .* is \[2\]"):
        account(rename_all([state]), {"flava.text_model.embeddings.word_embeddings.weight": (2,)})
    with pytest.raises(AssertionError, match="a value was read"):
        account(rename_all([state]), {"flava.text_model.embeddings.word_embeddings.weight": (3,)})


IN_MEMORY = {
    "two keys for one": {"heads.cmd.itm_head.pooler": torch.ones(1), "heads.cmd.heads.cmd.itm_head.cls.pooler": torch.ones(1)},
    "copies that differ": {"text_encoder.embeddings.x": torch.ones(2), "text_encoder.module.embeddings.x": torch.zeros(2)},
    "copies of two dtypes": {"text_encoder.embeddings.x": torch.ones(2), "text_encoder.module.embeddings.x": torch.ones(2).half()},
    "a copy of nothing": {"text_encoder.embeddings.x": torch.ones(2)},
}


@pytest.mark.parametrize("state", IN_MEMORY.values(), ids=IN_MEMORY)
def test_a_state_dict_in_memory_is_refused_in_the_same_words(tmp_path, state):
    """`upgrade_state_dict` and the conversion of files account for keys by one function."""
    write_torch_zip(tmp_path / "file", {key: MemoryTensor(tensor) for key, tensor in state.items()})
    of_file = StateDict("state_dict", Layout.ORIGINAL, open_checkpoint(tmp_path / "file").tensors)
    with pytest.raises(NotFaithful) as from_file:
        account(rename_all([of_file]))
    with pytest.raises(NotFaithful) as from_memory:
        upgrade_state_dict(state, {})
    assert str(from_memory.value) == str(from_file.value)


def test_a_bias_that_fills_both_of_its_keys_is_recorded_with_both(convert, tmp_path):
    """The record has the key's own target, and the other that it fills too."""
    state = {key: value for key, value in tiny_state_dict().items() if key != f"{HEAD}.bias"}
    assert convert(state) is None
    fates = json.loads((tmp_path / "out" / "conversion.json").read_text())["sources"]["checkpoint"]["keys"]
    assert fates[f"{HEAD}.decoder.bias"] == {"target": "mmm_text_head.decoder.bias", "also": "mmm_text_head.bias"}
