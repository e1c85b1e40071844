"""Whatever a trainer put into the keys of a model, around it or beside it, the model is found, and the rest is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flava_port.errors import InvalidInput, NotFaithful
from flava_port.rules.layouts import Layout
from flava_port.rules.wrappers import Reading, readings
from flava_port.target.keys import POSITION_IDS
from flava_port.target.shapes import expected_shapes
from tests.builders import tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.reading.found import CODEBOOKS, MODELS, by_name, find, hugging_face
from tests.rules.grammar import tiny_torchmultimodal

TARGETS = (*expected_shapes({}), POSITION_IDS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("found") / "file.pt"


def inside(key: str, wrapper: str, at: int) -> str:
    """The key with a wrapper's name after its first ``at`` parts."""
    parts = key.split(".")
    return ".".join([*parts[:at], wrapper, *parts[at:]])


WRAPPERS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"]
WRAPPED = {
    "before every key": lambda key, wrapper: f"{wrapper}.{key}",
    "twice": lambda key, wrapper: f"{wrapper}.{wrapper}.{key}",
    "around each layer": lambda key, wrapper: key.replace(".layer.0.", f".layer.0.{wrapper}.").replace(".layer.1.", f".layer.1.{wrapper}."),
    "around the parameter": lambda key, wrapper: inside(key, wrapper, key.count(".")),
    "before every key and inside": lambda key, wrapper: f"{wrapper}.{inside(key, wrapper, key.count('.'))}",
    "inside of a prefix": lambda key, wrapper: f"student.{wrapper}.{key}",
}


def read(names) -> Reading:
    """The best way to read names, without a file."""
    return readings(names, TARGETS)[0]


@pytest.mark.parametrize("where", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("model", ["original", "torchmultimodal", "Hugging Face"])
def test_a_wrapper_comes_out_wherever_it_stands(model, where):
    """The keys are those of the bare model, and each name in the file is known still."""
    make, layout = MODELS[model]
    for wrapper in WRAPPERS:
        names = {where(key, wrapper): key for key in make()}
        way = read(names)
        assert way.naming.layout is layout and way.keys == names, wrapper


PREFIXES = ["student.", "backbone.", "net.model.", "base_model.model.", "flava.", "a.b.c.d.", "model.", "0."]


@pytest.mark.parametrize("model", MODELS)
def test_any_common_prefix_is_found_by_what_follows_it(model):
    """In every layout; encoders alone behind their name in a whole model are told by `find_model`."""
    make, layout = MODELS[model]
    added = "flava." if model == "Hugging Face, bare" else ""
    for prefix in PREFIXES:
        if (model, prefix.split(".")[-2]) not in (("torchmultimodal, bare", "model"), ("Hugging Face, bare", "flava")):
            way = read([prefix + key for key in make()])
            assert (way.naming.layout, way.prefix) == (layout, prefix)
            assert way.keys == {prefix + key: added + key for key in make()}


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("torchmultimodal, bare", "model."),
        ("torchmultimodal, bare", "net.model."),
        ("Hugging Face, bare", "flava."),
        ("original", "net."),
        ("torchmultimodal", "module."),
        ("Hugging Face", "base_model.model."),
    ],
)
def test_the_prefix_is_said(path, model, prefix):
    """Also where it is what stands before the encoders' keys in a whole model: then they are a model of their own."""
    make, layout = MODELS[model]
    found = find(path, {prefix + key: torch.ones(2) for key in make()})
    assert (found.layout, found.checkpoint.prefix) == (layout, prefix)
    assert set(by_name(found)) == {prefix + key for key in make()}


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder.", "dvae.encoder.", "image_codebook.encoder."])
def test_a_codebook_behind_any_prefix_is_found(path, prefix):
    """As OpenAI's own class has it, and what holds that class."""
    found = find(path, {prefix + key: tensor for key, tensor in tiny_codebook().items()}, CODEBOOKS)
    assert found.layout is Layout.DALLE and list(found.checkpoint.tensors) == list(tiny_codebook())


def test_of_openais_whole_model_the_encoder_is_taken(path):
    """Its decoder has keys of the same names."""
    both = {f"{part}.{key}": tensor for part in ("encoder", "decoder") for key, tensor in tiny_codebook().items()}
    found = find(path, both, CODEBOOKS)
    assert found.checkpoint.prefix == "encoder." and {name.split(".")[0] for name in by_name(found)} >= {"encoder"}


@pytest.mark.parametrize("converted", ["", "image_codebook."])
def test_a_converted_codebook_is_taken_for_one(path, converted):
    """A `FlavaImageCodebook`'s own state dict, and the part of a whole model's."""
    state = {key: tensor for key, tensor in hugging_face().items() if key.startswith("image_codebook.")}
    found = find(path, {converted + key.removeprefix("image_codebook."): tensor for key, tensor in state.items()}, CODEBOOKS)
    assert found.layout is Layout.HUGGING_FACE_CODEBOOK and list(found.checkpoint.tensors) == list(state)


def test_several_models_side_by_side_are_told_apart_by_a_prefix_that_is_named(path):
    """Without it nothing is guessed at; with it the other is left out, and named."""
    both = {f"{who}.{key}": tensor + n for n, who in enumerate(("student", "teacher")) for key, tensor in tiny_state_dict().items()}
    with pytest.raises(InvalidInput, match=r"several whole models side by side; choose one: --prefix student\. or --prefix teacher\."):
        find(path, both)
    for prefix in ("teacher.", "teacher"):
        found = find(path, prefix=prefix)
        assert_same_tensors(by_name(found), {key: tensor for key, tensor in both.items() if key.startswith("teacher.")})
        assert len(found.checkpoint.left_out) == len(tiny_state_dict())
        assert set(found.checkpoint.left_out.values()) == {f"outside of --prefix {prefix}"}


def test_an_empty_prefix_can_be_named_too(path):
    """Where a copy stands behind a prefix, and the model behind none."""
    state = tiny_state_dict()
    with pytest.raises(InvalidInput, match=r"--prefix '' or --prefix ema\."):
        find(path, state | {f"ema.{key}": tensor for key, tensor in state.items()})
    assert list(find(path, prefix="").checkpoint.tensors)[: len(state)] == list(state)


def test_a_prefix_that_nothing_has_is_refused(path):
    """The message says what the file holds."""
    with pytest.raises(InvalidInput, match="neither FLAVA nor its codebook"):
        find(path, tiny_state_dict(), prefix="student.")


STRAYS = {
    "n_averaged": torch.tensor(5),
    "module.n_averaged": torch.tensor(5),
    "ema.decay": torch.tensor(0.999),
    "ema.num_updates": torch.tensor(7, dtype=torch.int32),
    "train_acc.tp": torch.arange(4),
    "val_confusion.confmat": torch.zeros(3, 3, dtype=torch.int64),
    "metric.mean_value": torch.tensor(0.25),
    "initted": torch.tensor([True]),
}


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
@pytest.mark.parametrize("model", ["original", "torchmultimodal", "Hugging Face"])
def test_counters_and_metrics_beside_the_model_are_named_and_left_out(path, model, prefix):
    """Each with why it is no weight."""
    make, layout = MODELS[model]
    state = {prefix + key: torch.ones(2) for key in make()}
    found = find(path, {**STRAYS, **state})
    assert found.layout is layout and list(found.checkpoint.tensors) == list(make())
    assert set(found.checkpoint.left_out) == set(STRAYS)
    assert all(because.startswith("beside the model") for because in found.checkpoint.left_out.values())


def test_weights_of_a_loss_outside_of_the_prefix_are_left_out_too(path):
    """A vector is no layer's weight; in a model without a prefix nothing tells that it stands outside."""
    state = {f"net.{key}": tensor for key, tensor in tiny_state_dict().items()}
    found = find(path, {**state, "criterion.weight": torch.ones(5)})
    assert list(found.checkpoint.left_out) == ["criterion.weight"]
    assert "criterion.weight" in find(path, {**tiny_state_dict(), "criterion.weight": torch.ones(5)}).checkpoint.tensors


KEPT = {
    "a counter inside of the model": {"image_encoder.module.step": torch.tensor(3)},
    "a scalar in a head": {"heads.cmd.clip_head.temperature": torch.tensor(0.1)},
    "a head": {"classifier.weight": torch.ones(3, 4), "classifier.bias": torch.ones(3)},
    "no elements": {"zzz": torch.ones(0)},
    "a vector": {"zzz": torch.ones(2)},
    "a number for a name": {7: torch.ones(2, 2)},
    "a number for a counter's name": {7: torch.tensor(3)},
}


@pytest.mark.parametrize("more", KEPT.values(), ids=KEPT)
def test_what_may_be_a_weight_is_never_left_out_unasked(path, more):
    """It goes on to the account of every key, which stops on it."""
    found = find(path, tiny_state_dict() | more)
    assert not found.checkpoint.left_out
    assert {str(key) for key in more} <= {name.removesuffix(" (a key that is no text)") for name in found.checkpoint.tensors}


def test_a_head_outside_of_the_prefix_is_not_left_out_unasked(path):
    """It has a matrix; so its bias stays with it."""
    state = {f"net.{key}": tensor for key, tensor in tiny_state_dict().items()}
    head = {"projector.weight": torch.ones(3, 4), "projector.bias": torch.ones(3)}
    found = find(path, state | head)
    assert not found.checkpoint.left_out and set(head) <= set(found.checkpoint.tensors)
    assert set(find(path, prefix="net.").checkpoint.left_out) == set(head)


def test_two_names_of_one_key_stop_it(path):
    """A model with and without its wrapper has two values for each key."""
    state = tiny_torchmultimodal()
    twice = "model.image_projection.bias"
    with pytest.raises(NotFaithful, match=rf"{twice} and model\.module\.image_projection\.bias both stand for {twice}"):
        find(path, state | {"model.module.image_projection.bias": state[twice]})


@pytest.mark.parametrize(("old", "new"), [("LayerNorm.weight", "LayerNorm.gamma"), ("layernorm_after.bias", "layernorm_after.beta")])
def test_gamma_and_beta_are_a_layer_norms(path, old, new):
    """As older code names its weight and bias, in any layer norm; each keeps its name for messages."""
    state = {key.replace(old, new): tensor for key, tensor in tiny_state_dict().items()}
    found = find(path, state)
    assert list(found.checkpoint.tensors) == list(tiny_state_dict()) and list(by_name(found)) == list(state)


def test_a_scale_of_one_dimension_is_the_scalar_that_it_holds(path):
    """FSDP asks for one dimension."""
    key = "heads.cmd.clip_head.logit_scale"
    found = find(path, {name: tensor[None] if name == key else tensor for name, tensor in tiny_state_dict().items()})
    assert torch.equal(by_name(found)[key], tiny_state_dict()[key]) and found.checkpoint.tensors[key].shape == ()


@settings(max_examples=10)
@given(st.lists(st.sampled_from([*WRAPPERS, "net", "student", "model", "flava"]), max_size=4), st.sampled_from(sorted(MODELS)))
def test_any_prefix_of_wrappers_and_names_is_found(parts, model):
    """Whatever trainers put around each other, every name is read as the key that it is."""
    make, _ = MODELS[model]
    names = [".".join([*parts, key]) for key in make()]
    ways = readings(names, TARGETS)
    assert len(ways[0].keys) == len(names)
    assert any(way.keys == {name: way.naming.adds + key for name, key in zip(names, make())} for way in ways)
