"""Whatever does not come out even stops the conversion, with the key and what to do; see also test_unfaithful_weights.py."""

import pytest
import torch

from flava_port import NotFaithful, convert_flava_checkpoint
from flava_port.conversion.account import counts_up
from flava_port.files.checkpoint import open_checkpoint
from tests.builders import tiny_state_dict

QUERY = "text_encoder.module.encoder.layer.1.attention.attention.query.weight"
WORDS = "text_encoder.embeddings.word_embeddings.weight"
HEAD = "heads.cmd.mlm_head.cls.predictions"


@pytest.fixture
def convert(tiny, tmp_path):
    """Saves a state dict and converts it; the error, or None."""

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
    """A key that the table would drop is kept nowhere else."""
    edited = tiny_state_dict()
    edited["text_encoder.embeddings.extra.weight"] = torch.ones(2)
    assert "there is no text_encoder.module.embeddings.extra.weight" in convert(edited)


def test_position_ids_that_do_not_count_up_stop_it(convert):
    """The model would compute others."""
    edited = tiny_state_dict()
    for key in ("text_encoder.module.embeddings.position_ids", "text_encoder.embeddings.position_ids"):
        edited[key] = edited[key].flip(1)
    assert "position_ids does not hold 0, 1, 2, ..., 19" in convert(edited)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_position_ids_count_up_as_their_dtype_has_it(dtype, tmp_path):
    """bfloat16 rounds 257 to 256; a checkpoint that was cast whole is the same model all the same."""
    torch.save({"ids": torch.arange(512)[None].to(dtype), "others": torch.arange(1, 513)[None].to(dtype)}, tmp_path / "file")
    tensors = open_checkpoint(tmp_path / "file").tensors
    assert counts_up(tensors["ids"], 512) and not counts_up(tensors["ids"], 511) and not counts_up(tensors["others"], 512)


def test_position_ids_may_be_absent(convert):
    """Training code that does not save them loses nothing."""
    assert convert({key: value for key, value in tiny_state_dict().items() if "position_ids" not in key}) is None


def test_second_copies_may_be_absent(convert):
    """Only the copies under the modules are needed."""
    assert convert({k: v for k, v in tiny_state_dict().items() if "_encoder.embeddings." not in k}) is None


@pytest.mark.parametrize("missing", [f"{HEAD}.bias", f"{HEAD}.decoder.bias"])
def test_a_head_bias_may_come_under_either_key(convert, missing):
    """The other key is filled from the one that is there."""
    assert convert({key: value for key, value in tiny_state_dict().items() if key != missing}) is None


def test_a_head_bias_that_differs_between_its_keys_stops_it(convert):
    """They are one tensor; which would win depends on the transformers release."""
    edited = tiny_state_dict()
    edited[f"{HEAD}.bias"] = edited[f"{HEAD}.bias"] + 1
    message = convert(edited)
    assert f"{HEAD}.bias" in message and f"{HEAD}.decoder.bias" in message and "first at [0]" in message


def test_a_missing_key_is_named_in_both_layouts(convert):
    """With the nearest key that the file has and that goes nowhere."""
    edited = tiny_state_dict()
    edited[QUERY.replace("query", "qury")] = edited.pop(QUERY)
    message = convert(edited)
    assert f"missing {QUERY}: the checkpoint has no tensor for flava.text_model.encoder.layer.1" in message
    assert "qury.weight (checkpoint, rule 11)" in message


def test_a_key_that_no_rule_places_is_named_with_its_nearest(convert):
    """A stray key is never left out in silence."""
    message = convert({**tiny_state_dict(), "image_projektion.weight": torch.ones(2)})
    assert "image_projektion.weight (checkpoint, no rule): the model has no place for it" in message


def test_two_sources_of_one_target_stop_it(convert):
    """An already renamed key beside its original would overwrite it."""
    edited = tiny_state_dict()
    edited["mmm_text_head.bias"] = edited[f"{HEAD}.bias"] + 1
    expected = f"mmm_text_head.bias (checkpoint, no rule) and {HEAD}.bias (checkpoint, rule 2) both become mmm_text_head.bias"
    assert expected in convert(edited)


def test_a_wrong_shape_is_named_with_both_shapes(convert):
    """Most weights decide the size; the one that disagrees is the culprit."""
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
