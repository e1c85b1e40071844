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
from flava_port.files.checkpoint import CONTAINERS, open_checkpoint
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


@given(names=containers(), prefix=st.sampled_from(["", "model.", "module.", "module.model.", "model.module.model."]))
def test_nested_and_prefixed_state_dicts_are_found(path, names, prefix):
    """A state dict up to three containers deep is found, and the prefix that its keys share is taken off."""
    torch.save(_nested({prefix + key: tensor for key, tensor in WEIGHTS.items()}, names), path)
    found = open_checkpoint(path)
    assert (list(found.tensors), found.container, found.prefix) == (list(WEIGHTS), ".".join(names), prefix)
    assert found.name_in_file("mm_text_projection.bias") == f"{prefix}mm_text_projection.bias"


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


def test_weights_under_a_name_that_nobody_uses_are_not_guessed_at(path):
    """Weights in an unknown container are refused, and the message lists the names in the file."""
    torch.save({"epoch": 3, "ema": WEIGHTS}, path)
    with pytest.raises(InvalidInput, match=r"no tensors in it \(it holds epoch, ema\)"):
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
    """The values of a nested, prefixed state dict are the saved ones bit for bit."""
    torch.save({"module": {f"model.{key}": tensor for key, tensor in WEIGHTS.items()}}, path)
    assert_same_tensors({key: load(tensor) for key, tensor in open_checkpoint(path).tensors.items()}, WEIGHTS, in_order=True)
