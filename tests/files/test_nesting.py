"""A state dict is found in the usual containers and behind the usual prefixes, and everything else is listed."""

import argparse
import collections
import datetime
import pathlib
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.state_dicts import CONTAINERS
from flava_port.files.torch_tensors import load
from tests.builders import tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.files.strategies import containers, training_states

WEIGHTS = {"text_encoder.module.layernorm.weight": torch.randn(3), "mm_text_projection.bias": torch.randn(2)}


def _nested(state: dict, names: list[str]) -> dict:
    return reduce(lambda inner, name: {name: inner}, reversed(names), state)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("nested") / "checkpoint.pt"


@given(names=containers())
def test_nested_state_dicts_are_found(path, names):
    """A state dict in up to three containers of usual names is found, and no key is changed."""
    torch.save(_nested(WEIGHTS, names), path)
    found = open_checkpoint(path)
    assert (list(found.tensors), found.container) == (list(WEIGHTS), ".".join(names))
    assert found.name_in_file("mm_text_projection.bias") == "mm_text_projection.bias"


@given(beside=training_states(), name=st.sampled_from(CONTAINERS))
def test_training_state_beside_the_weights_is_ignored_and_listed(path, beside, name):
    """Plain data of any kind beside the weights is ignored, and its names are listed."""
    torch.save({**beside, name: WEIGHTS}, path)
    found = open_checkpoint(path)
    assert (list(found.tensors), set(found.ignored)) == (list(WEIGHTS), set(beside))


OBJECTS = {
    "args": argparse.Namespace(lr=0.1, groups=[1, 2]),
    "best": np.float64(0.5),
    "history": np.arange(6).reshape(2, 3),
    "counts": collections.Counter("abca"),
    "defaults": collections.defaultdict(list, {3: [1]}),
    "queue": collections.deque([1, 2]),
    "folder": pathlib.Path("/data"),
    "when": datetime.datetime(2021, 12, 8, 3, 4, 5),
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
    "size": torch.Size([2, 3]),
    "seen": {1, "two", (3, 4)},
    "frozen": frozenset([1]),
    "rng": torch.get_rng_state(),
    "numpy_rng": np.random.RandomState(0).get_state(),
    "number": 10**50 + 1j,
    "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_that_training_code_saves_are_ignored_and_listed(path, name, protocol):
    """The usual objects beside the weights are ignored, and their names are listed."""
    torch.save({"epoch": 3, "model": WEIGHTS, name: OBJECTS[name]}, path, pickle_protocol=protocol)
    found = open_checkpoint(path)
    assert (list(found.tensors), found.ignored) == (list(WEIGHTS), ("epoch", name))


def test_what_lies_beside_the_tensors_of_a_state_dict_is_listed_too(path):
    """What is no tensor inside the state dict is listed with the name of its container."""
    torch.save({"model": {**WEIGHTS, "version": "1.0", 7: None}, "step": 1}, path)
    assert open_checkpoint(path).ignored == ("step", "model.version", "model.7")


@pytest.mark.parametrize("name", ["ema", "teacher", "generator.ema", 3, ("a", 1)], ids=str)
def test_the_only_state_dict_is_found_under_any_name(path, name):
    """A container's name may be anything, also no text."""
    torch.save({"epoch": 3, name: WEIGHTS}, path)
    found = open_checkpoint(path)
    assert list(found.tensors) == list(WEIGHTS) and found.ignored == ("epoch",)


@pytest.mark.parametrize("around", [lambda state: [state], lambda state: (3, [state, "x"]), lambda state: {"models": [{"net": state}]}])
def test_lists_and_tuples_are_looked_into(path, around):
    """The place in the list is the container's name."""
    torch.save(around(WEIGHTS), path)
    found = open_checkpoint(path)
    assert list(found.tensors) == list(WEIGHTS) and "0" in found.container


def test_of_several_state_dicts_a_usual_name_counts(path):
    """Where none has a usual name, nothing is guessed at, and the message lists the names."""
    torch.save({"ema": WEIGHTS, "state_dict": WEIGHTS | {"more": torch.ones(1)}, "other": dict(WEIGHTS)}, path)
    assert open_checkpoint(path).container == "state_dict"
    torch.save({"ema": WEIGHTS, "teacher": dict(WEIGHTS)}, path)
    with pytest.raises(InvalidInput, match="several state dicts, none under a usual name: ema, teacher"):
        open_checkpoint(path)


def test_the_command_converts_a_nested_prefixed_checkpoint_and_says_so(run_command, tmp_path):
    """A state dict in two containers, with two prefixes and an optimizer beside it, converts, and the summary says so."""
    state = {f"module.model.{key}": tensor for key, tensor in tiny_state_dict().items()}
    torch.save({"state_dict": {"model": state}, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}, tmp_path / "last.ckpt")
    ran = run_command(
        *("convert", "--checkpoint_path", tmp_path / "last.ckpt"), *("--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out")
    )
    assert ran.status == 0, ran.err
    assert "under 'state_dict.model', each with 'module.model.' before it" in ran.out
    assert "ignored  last.ckpt: epoch, optimizer" in ran.out


def test_nested_values_are_the_saved_ones(path):
    """The values of a nested state dict are the saved ones bit for bit, under the saved keys."""
    prefixed = {f"model.{key}": tensor for key, tensor in WEIGHTS.items()}
    torch.save({"module": prefixed}, path)
    assert_same_tensors({key: load(tensor) for key, tensor in open_checkpoint(path).tensors.items()}, prefixed, in_order=True)
