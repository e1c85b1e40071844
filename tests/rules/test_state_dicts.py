"""What `upgrade_state_dict` does to the values, order and copies of a whole state dict, and what it refuses."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava_port import codebook
from flava_port.convert import count_parameters, upgrade_state_dict
from flava_port.errors import InvalidInput, NotFaithful
from flava_port.files.checkpoint import read_content
from flava_port.reading.finding import Wish, find_model
from flava_port.rules.layouts import Layout
from flava_port.rules.tables import CODEBOOK, FLAVA
from tests.strategies import adversarial_state_dicts, codebook_keys, original_state_dicts, twin_of, wrapped_state_dicts


@given(original_state_dicts())
def test_values_pass_through_and_are_cast_to_float32(original):
    """Each target has its source's values in float32, and no key is added or lost."""
    source = original.state_dict
    upgraded = upgrade_state_dict(source, {})
    targets = {FLAVA.rename(key): value for key, value in source.items() if FLAVA.rename(key) is not None}
    assert upgraded.keys() == targets.keys()
    for key, value in upgraded.items():
        assert value.dtype == torch.float32, key
        assert torch.equal(value, targets[key].float()), key


@given(original_state_dicts())
def test_float32_tensors_are_the_very_same_so_that_shared_ones_stay_shared(original):
    """A float32 tensor is not copied, so a head's bias and its decoder's bias stay one tensor."""
    source = original.state_dict
    upgraded = upgrade_state_dict(source, {})
    for key, value in source.items():
        if value.dtype == torch.float32 and (target := FLAVA.rename(key)):
            assert upgraded[target] is value, key


@given(original_state_dicts(), st.randoms(use_true_random=False))
def test_insertion_order_is_irrelevant(original, dice):
    """A shuffled state dict gives the same targets and values."""
    source = original.state_dict
    shuffled = list(source.items())
    dice.shuffle(shuffled)
    one, other = upgrade_state_dict(source, {}), upgrade_state_dict(dict(shuffled), {})
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@given(adversarial_state_dicts())
def test_a_decoy_is_refused_or_leaves_every_other_key_alone(original):
    """A key that only looks like FLAVA's never changes what the other keys become."""
    source = original.state_dict
    try:
        upgraded = upgrade_state_dict(source, {})
    except (NotFaithful, InvalidInput) as refusal:
        assert original.decoys[0] in str(refusal) or FLAVA.rename(original.decoys[0]) in str(refusal)
    else:
        assert set(upgraded) == {FLAVA.rename(key) for key in source} - {None}


@given(original_state_dicts())
def test_the_codebook_is_added_under_its_prefix_as_it_is(original):
    """The codebook's values are the very same tensors."""
    value = torch.tensor([1, 2], dtype=torch.float16)
    assert upgrade_state_dict(original.state_dict, {"blocks.x": value})["image_codebook.blocks.x"] is value


@given(original_state_dicts().filter(lambda original: any(FLAVA.rename(key) for key in original.keys)))
def test_an_already_converted_state_dict_is_refused(original):
    """A state dict that is already converted stops with a message that says so."""
    converted = upgrade_state_dict(original.state_dict, {})
    with pytest.raises(InvalidInput, match="already converted"):
        upgrade_state_dict(converted, {})


@given(original_state_dicts().filter(lambda original: original.keys), st.integers(0, 1 << 16))
def test_one_converted_key_among_many_is_refused_by_name(original, place):
    """One converted key among the original's stops with a message that says so."""
    source = original.state_dict
    key = random.Random(place).choice(sorted({FLAVA.rename(key) for key in source} - {None}))
    with pytest.raises(InvalidInput, match="already converted"):
        upgrade_state_dict({**source, key: torch.ones(1)}, {})


def test_two_keys_that_meet_are_refused_by_name():
    """Where two keys become one, the message names both keys and the target."""
    two = {"text_projection.weight": torch.ones(1), "x.flava.y": torch.ones(1)}
    assert len(upgrade_state_dict(two, {})) == 2
    meeting = {"heads.cmd.heads.cmd.itm_head.cls.pooler": torch.ones(1), "heads.cmd.itm_head.pooler": torch.ones(1)}
    with pytest.raises(
        NotFaithful, match=r"itm_head\.pooler \(.*rule 4\) and heads\.cmd\.heads\.cmd.*\(.*rules 3 and 4\) both become itm_head\.pooler"
    ):
        upgrade_state_dict(meeting, {})


def test_a_second_copy_that_differs_is_refused_by_name():
    """Where two copies differ, or the kept copy is missing, the message names the copies."""
    source = {"text_encoder.embeddings.x": torch.zeros(2), "text_encoder.module.embeddings.x": torch.ones(2)}
    with pytest.raises(NotFaithful, match=r"text_encoder\.embeddings\.x and text_encoder\.module\.embeddings\.x"):
        upgrade_state_dict(source, {})
    with pytest.raises(NotFaithful, match=r"there is no text_encoder\.module\.embeddings\.x"):
        upgrade_state_dict({"text_encoder.embeddings.x": torch.zeros(2)}, {})


@given(original_state_dicts())
def test_count_parameters_sums_what_is_not_a_second_copy(original):
    """The sum counts every value once, without second copies, as upstream's does."""
    source = {key: value for key, value in original.state_dict.items() if "position_ids" not in key}
    expected = sum(value.float().sum().item() for key, value in source.items() if twin_of(key) == key or "predictions" in key)
    assert float(count_parameters(source)) == pytest.approx(expected, abs=1e-3)


@given(wrapped_state_dicts().filter(lambda wrapped: wrapped.original.keys))
def test_a_files_nesting_and_prefix_do_not_change_its_keys(tmp_path_factory, wrapped):
    """A nested file, or one with a common prefix, gives the keys of the bare state dict."""
    path = tmp_path_factory.mktemp("wrapped") / "flava.pt"
    torch.save(wrapped.content, path)
    assert set(find_model(read_content(path), list(Layout), Wish()).checkpoint.tensors) == set(wrapped.original.keys)


def test_the_codebooks_values_pass_through_in_float32():
    """Each target has its source's values in float32, under the key that the table gives."""
    source = {key: torch.tensor([n, 0.5], dtype=torch.float16) for n, key in enumerate(codebook_keys())}
    upgraded = codebook.upgrade_state_dict(source)
    assert set(upgraded) == {CODEBOOK.rename(key) for key in source}
    for key, value in source.items():
        assert upgraded[CODEBOOK.rename(key)].dtype == torch.float32
        assert torch.equal(upgraded[CODEBOOK.rename(key)], value.float()), key


def test_a_converted_codebook_is_refused():
    """A codebook that is already converted stops with a message that says so."""
    converted = codebook.upgrade_state_dict({key: torch.ones(1) for key in codebook_keys()})
    with pytest.raises(InvalidInput, match="already converted"):
        codebook.upgrade_state_dict(converted)


def test_two_codebook_keys_that_meet_are_refused_by_name():
    """Where `x.w` and `x.weight` would become one, the message names both and the target."""
    with pytest.raises(NotFaithful, match=r"x\.w \(.*rule 6\) and x\.weight \(.*no rule\) both become image_codebook\.x\.weight"):
        codebook.upgrade_state_dict({"x.weight": torch.ones(1), "x.w": torch.ones(1), "blocks.group_1.block_1.x.w": torch.ones(1)})
