"""Of a large model fewer tokens take part, and the converted model's inner layers compute one whole input of each shape. Nothing is missed."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from flava_port import convert_flava_checkpoint
from flava_port.proof.certificate import Verdict
from flava_port.proof.sides import Sides
from flava_port.proof.whole import inner_layers
from flava_port.target.config import read_config
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY, write_tiny
from tests.proof import mutants

LAYERS = 4
ENCODERS = ("image", "text", "multimodal")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A tiny model with inner layers in each encoder: the files, and the folder that was converted from them."""
    place = tmp_path_factory.mktemp("deep")
    sections = {f"{name}_config": replace(getattr(TINY, f"{name}_config"), num_hidden_layers=LAYERS) for name in ENCODERS}
    files = write_tiny(place, config=replace(TINY, **sections))
    convert_flava_checkpoint(files.checkpoint, files.codebook, place / "out")
    return files, place / "out"


@pytest.fixture
def verified(deep, taken_for_large):
    """``verified(change)``: the claims about the deep model, taken for a large one, after the change in transformers."""
    files, folder = deep

    def verify(change=lambda _model: None) -> dict:
        with mutants.edited(change):
            return {claim.name: claim for claim in verify_flava_checkpoint(files.checkpoint, files.codebook, folder).claims}

    return verify


def test_the_inner_layers_are_those_between_the_first_and_the_last(deep):
    """Of each encoder."""
    sides = Sides({}, None, deep[1], read_config(deep[1]))
    named = {f"flava.{name}_model.encoder.layer.{number}" for name in ENCODERS for number in range(1, LAYERS - 1)}
    assert inner_layers(sides.converted()) == named


def test_a_clean_model_is_proven(verified):
    """Every claim but those that ask for a tokenizer."""
    assert {name for name, claim in verified().items() if claim.verdict is not Verdict.PROVEN} == {"tokens", "end to end"}


LAYER = "flava.text_model.encoder.layer.1.output.dense"


def _bend_a_weights_gradient(model) -> None:
    def bend(layer, _inputs) -> None:
        if layer.weight.requires_grad:
            layer.weight.register_hook(lambda gradient: 1.01 * gradient)

    model.get_submodule(LAYER).register_forward_pre_hook(bend)


def _take_no_gradient_of_a_weight(model) -> None:
    def freeze(layer, _inputs) -> None:
        layer.weight.requires_grad_(False)

    model.get_submodule(LAYER).register_forward_pre_hook(freeze)


def _bend_what_a_layer_saves(model) -> None:
    layer = model.get_submodule(LAYER)
    own = layer.forward

    def forward(states):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: 1.01 * tensor, lambda tensor: tensor):
            return own(states)

    layer.forward = forward


LONG = [pytest.param(change, marks=pytest.mark.slow) for change in (_take_no_gradient_of_a_weight, _bend_what_a_layer_saves)]


@pytest.mark.parametrize("change", [_bend_a_weights_gradient, *LONG])
def test_a_wrong_gradient_of_a_large_matrix_is_caught(change, verified):
    """However it comes to be wrong, where the forward pass is right."""
    claims = verified(change)
    assert claims["forward"].verdict is Verdict.PROVEN and claims["gradients"].verdict is Verdict.DIFFERS
    assert f"{LAYER}.weight" in {measured.what for measured in claims["gradients"].measured if measured.is_too_large}


def _run_a_layer_again(model) -> None:
    layer = model.get_submodule(LAYER)
    own = layer.forward
    layer.forward = lambda states: checkpoint(own, states, use_reentrant=False)


def _map_a_layer(model) -> None:
    layer = model.get_submodule(LAYER)
    layer.forward = lambda states: torch.vmap(lambda one: functional.linear(one, layer.weight, layer.bias))(states)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_run_a_layer_again, _map_a_layer])
def test_a_right_model_is_proven_however_it_computes(change, verified):
    """Where a gradient cannot be kept as factors, it is torch's own."""
    claims = verified(change)
    found = {name: claims[name] for name in ("forward", "losses", "gradients")}
    assert {claim.verdict for claim in found.values()} == {Verdict.PROVEN}, found


def _set_epsilon(model) -> None:
    model.flava.text_model.encoder.layer[2].layernorm_after.eps = 1e-6


def _spoil_a_middle_patch(model) -> None:
    def spoil(_module, _inputs, output):
        output = output.clone()
        output[:, output.shape[1] // 2] *= 1.001
        return output

    model.flava.multimodal_model.encoder.layer[2].output.dense.register_forward_hook(spoil)


FAULTS = {
    "an inner layer's epsilon": (_set_epsilon, "flava.text_model.encoder.layer.2.layernorm_after"),
    "one token in the middle": (_spoil_a_middle_patch, ""),
    "bfloat16 in the masked pass": (mutants.round_the_masked_pass, "flava.multimodal_model.encoder.layer.0"),
    "an epsilon in the masked pass": (mutants.set_epsilon_in_the_masked_pass, "flava.multimodal_model.encoder.layer.0"),
    "what is remembered by shape": (mutants.remember_by_shape, "flava.image_model.encoder.layer.0"),
}


LONGER = "one token in the middle", "bfloat16 in the masked pass"


@pytest.mark.parametrize("fault", [pytest.param(fault, marks=[pytest.mark.slow] * (fault in LONGER)) for fault in FAULTS])
def test_a_fault_of_an_inner_layer_or_of_the_masked_pass_alone_is_caught(fault, verified):
    """Where a further input of one shape is computed otherwise, the first layer shows it, which computes every input."""
    change, culprit = FAULTS[fault]
    claims = verified(change)
    assert claims["forward"].verdict is Verdict.DIFFERS
    assert culprit in "\n".join(map(str, claims["forward"].findings))
