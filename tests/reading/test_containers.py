"""A model is found in whatever dict, object or module it stands, and what stands beside it never keeps anyone from it."""

import argparse
import enum
import functools
import random
import re
import types
import uuid
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch

from flava_port.errors import InvalidInput, NotFaithful
from flava_port.rules.layouts import Layout
from tests.builders import tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.reading.found import CODEBOOKS, by_name, find, hugging_face
from tests.rules.grammar import tiny_torchmultimodal


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("contained") / "file.pt"


MODEL = tiny_state_dict()
AROUND = {
    "net": lambda state: {"net": state, "epoch": 3},
    "ema": lambda state: {"ema": state},
    "teacher": lambda state: {"teacher": state, "metrics": {"loss": torch.tensor(0.5)}},
    "a name with dots": lambda state: {"generator.ema": state},
    "a number": lambda state: {0: state, 1: {"lr": 0.1}},
    "a tuple": lambda state: (3, state),
    "a list in a dict": lambda state: {"models": [state]},
    "an object": lambda state: argparse.Namespace(model=state, epoch=3),
    "a dict of another class": lambda state: {"model": OrderedDict(state), "seen": defaultdict(int)},
    "an optimizer beside": lambda state: {"net": state, "opt": torch.optim.Adam([torch.nn.Parameter(torch.ones(2, 2))]).state_dict()},
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_the_one_model_is_found_in_whatever_holds_it(path, around):
    """Of any name and any kind."""
    found = find(path, around(MODEL))
    assert_same_tensors(by_name(found), MODEL)
    assert found.checkpoint.container


def test_of_several_models_the_one_of_a_usual_name_is_taken_and_the_others_are_named(path):
    """With the way to take them."""
    both = {"ema": {key: tensor + 1 for key, tensor in MODEL.items()}, "model": MODEL, "best": dict(MODEL)}
    found = find(path, both)
    assert found.checkpoint.container == "model"
    assert sorted(found.checkpoint.notes) == [
        f"a whole model stands under {name} too; --container {name} takes that one" for name in ("best", "ema")
    ]
    assert_same_tensors(by_name(find(path, container="ema")), both["ema"])


def test_of_several_models_of_unusual_names_none_is_guessed_at(path):
    """The message has the ways to choose."""
    with pytest.raises(
        InvalidInput, match="several whole models and none under a usual name; choose one: --container student or --container teacher"
    ):
        find(path, {"student": MODEL, "teacher": dict(MODEL)})
    assert find(path, container="teacher").checkpoint.container == "teacher"


def test_a_container_that_is_not_there_is_refused_with_those_that_are(path):
    """Also one whose name has another spelling."""
    with pytest.raises(InvalidInput, match="--container Ema: no state dict under that name; there are: ema"):
        find(path, {"ema": MODEL}, container="Ema")


def test_a_container_may_be_named_with_those_around_it(path):
    """Or by its own name, where that is the only one."""
    nested = {"a": {"net": MODEL}, "b": {"net": {key: tensor + 1 for key, tensor in MODEL.items()}}}
    find(path, nested | {"model": {"w": torch.ones(2)}}, container="b.net")
    assert find(path, container="b.net").checkpoint.container == "b.net"


def test_half_a_model_beside_a_whole_one_is_no_second_one(path):
    """A copy of one encoder does not make the choice unclear."""
    half = {key: tensor for key, tensor in MODEL.items() if key.startswith("text_encoder")}
    assert not find(path, {"net": MODEL, "momentum": half}).checkpoint.notes


def test_a_model_and_its_codebook_in_one_file_are_told_apart(path):
    """Each is found where it is asked for."""
    both = {"flava": MODEL, "dalle": tiny_codebook()}
    assert find(path, both).checkpoint.container == "flava"
    assert find(path, wanted=CODEBOOKS).checkpoint.container == "dalle"


class Stage(enum.Enum):
    """A project's own."""

    PRETRAINING = 1


class Switch(enum.Flag):
    """Another."""

    ON = 1
    OFF = 2


class Settings:
    """An object of a project's own, with a method that somebody keeps."""

    def __init__(self) -> None:
        self.stage, self.sizes = Stage.PRETRAINING, [1, 2]

    def schedule(self, step: int) -> int:
        """Kept as a bound method."""
        return step


OBJECTS = {
    "settings": Settings(),
    "enum": Stage.PRETRAINING,
    "flags": Switch.ON | Switch.OFF,
    "method": Settings().schedule,
    "partial": functools.partial(int, base=2),
    "namespace": types.SimpleNamespace(a=1),
    "generator": np.random.default_rng(0),
    "old generator": np.random.RandomState(0),
    "random": random.Random(0),
    "uuid": uuid.UUID(int=5),
    "pattern": re.compile("a+"),
    "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
    "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 3),
    "function": torch.nn.functional.gelu,
    "class": torch.nn.GELU,
    "error": ValueError("a loss was NaN"),
    "objects as keys": {Stage.PRETRAINING: 1, Settings(): 2},
    "objects in a set": {Stage.PRETRAINING},
    "a caption as a key": {"a very long caption " * 100: 3},
    "a huge number": {10**500: 1},
}


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_objects_beside_the_weights_stop_nothing(path, protocol):
    """Their names are listed; nobody has to know their classes."""
    torch.save({"model": MODEL, **OBJECTS}, path, pickle_protocol=protocol)
    found = find(path)
    assert found.checkpoint.ignored == tuple(OBJECTS) and len(found.checkpoint.tensors) == len(MODEL)


def test_objects_inside_of_a_state_dict_are_listed_too(path):
    """Under keys that are no weights'."""
    found = find(path, MODEL | OBJECTS)
    assert found.checkpoint.ignored == tuple(OBJECTS) and len(found.checkpoint.tensors) == len(MODEL)


@pytest.mark.parametrize(
    ("value", "called"), [(Settings(), "Settings"), (None, "NoneType"), ([1.0], "list"), (torch.ones(2).to_sparse(), "sparse")]
)
def test_an_object_in_a_weights_place_stops_with_the_key(run_command, tmp_path, value, called):
    """Nothing is converted without that weight."""
    key = "image_projection.bias"
    torch.save(MODEL | {key: value}, tmp_path / "odd.pt")
    ran = run_command("convert", "--checkpoint_path", tmp_path / "odd.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 1 and f"{key} (checkpoint, rule 15) is a" in ran.err and called in ran.err, ran.err
    assert not (tmp_path / "out").exists()


class Wrapper(torch.nn.Module):
    """A module of a project's own, with another inside and things beside it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.student, self.settings, self.activation = inner, Settings(), torch.nn.functional.gelu
        self.register_buffer("steps", torch.tensor(7))


def as_module(state):
    """A module whose state dict has these keys."""
    from tests.files.two_ranks import as_module as made

    return made(state)


MODULES = {
    "alone": as_module,
    "in DataParallel": lambda state: torch.nn.DataParallel(as_module(state)),
    "in a module of a project's own": lambda state: Wrapper(as_module(state)),
    "in a dict": lambda state: {"ema_model": as_module(state), "epoch": 3},
    "averaged": lambda state: torch.optim.swa_utils.AveragedModel(as_module(state)),
    "in a list of modules": lambda state: torch.nn.ModuleList([as_module(state)]),
}


@pytest.mark.parametrize(
    "model", [tiny_state_dict, tiny_torchmultimodal, hugging_face], ids=["original", "torchmultimodal", "Hugging Face"]
)
@pytest.mark.parametrize("around", MODULES.values(), ids=MODULES)
def test_a_whole_module_is_read_as_its_state_dict(path, around, model):
    """Nothing of its classes is imported; what it keeps beside its weights is left out."""
    found = find(path, around(model()))
    assert sorted(found.checkpoint.tensors) == sorted(model()) and found.checkpoint.module_class
    assert_same_tensors(dict(zip(found.checkpoint.tensors, by_name(found).values())), model())


def test_openais_encoder_is_found_in_any_module(tiny, path):
    """Pickled with what held it."""
    from flava_port.original.seeded import _dall_e_classes

    with _dall_e_classes():
        encoder = torch.load(tiny.codebook, weights_only=False)
        for around in (torch.nn.DataParallel(encoder), torch.nn.Sequential(encoder), Wrapper(encoder), {"dvae": encoder}):
            found = find(path, around, CODEBOOKS)
            assert found.layout is Layout.DALLE and list(found.checkpoint.tensors) == list(tiny_codebook())


def test_two_dicts_that_are_one_are_no_two_models(path):
    """Two names of one dict lead to one state dict."""
    found = find(path, {"ema": MODEL, "best": MODEL})
    assert found.checkpoint.container == "ema" and not found.checkpoint.notes


def test_a_duplicate_key_behind_a_wrapper_names_both(path):
    """Neither value is chosen."""
    with pytest.raises(NotFaithful, match="both stand for image_projection.bias"):
        find(path, {"net": MODEL | {"_orig_mod.image_projection.bias": MODEL["image_projection.bias"]}})
