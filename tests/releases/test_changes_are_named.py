"""A change planted in the installed transformers is named, with the circumstances that show it and the right advice."""

import math
from dataclasses import replace

import pytest
import torch

from flava_port.releases.drift import KINDS, LOOK, RECONVERT, SAFE, STAY, changes, drift_report, verdict
from flava_port.releases.observe import observe, observe_initial, observe_runs
from flava_port.releases.schema import observe_schema as observe_layout
from flava_port.target.installed import quiet
from flava_port.target.keys import HEADS
from tests.releases.plants import PLANTS, plant, plant_default_epsilon


def _built(monkeypatch, name: str, change) -> None:
    """Does ``change`` to each new object of a class of transformers' FLAVA."""
    from transformers.models.flava import modeling_flava

    kind = getattr(modeling_flava, name)
    original = kind.__init__

    def init(self, *arguments, **options):
        original(self, *arguments, **options)
        change(self)

    monkeypatch.setattr(kind, "__init__", init)


def _lines(old, new) -> str:
    found = changes(old, new)
    assert {difference.kind for difference in found} <= set(KINDS)
    return "\n".join(map(str, found))


def _with_runs_anew(observed):
    """What is observed where a change reaches nothing but the forward pass, in a third of the time."""
    with quiet():
        return replace(observed, runs=observe_runs())


def _with_layout_anew(observed):
    return replace(observed, layout=observe_layout().snapshot)


# What is done to which class, a line's beginning that must be there, and what must stand in that line.
COMPUTATIONS = {
    "an attention scale": (
        "FlavaSelfAttention",
        lambda module: module.query.register_forward_hook(lambda _module, _inputs, output: output * math.sqrt(2)),
        "forward: pairs: outputs ",
        "; first module flava.image_model.encoder.layer.0.attention.attention.query, after "
        "flava.image_model.encoder.layer.0.layernorm_before; no longer as the original",
    ),
    "an activation": (
        "FlavaIntermediate",
        lambda module: setattr(module, "intermediate_act_fn", torch.nn.GELU(approximate="tanh")),
        "forward: images alone, labels: outputs ",
        "; first module flava.image_model.encoder.layer.0.output.dense, after "
        "flava.image_model.encoder.layer.0.intermediate.dense; no longer as the original",
    ),
    "an epsilon": (
        "FlavaLayer",
        lambda module: setattr(module.layernorm_after, "eps", 1e-10),
        "forward: features of texts, padded: outputs features",
        "first module flava.text_model.encoder.layer.0.layernorm_after",
    ),
    "a codebook's activation": (
        "FlavaImageCodebook",
        lambda module: module.blocks.output.conv.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.001,)),
        "forward: the codebook alone: outputs ",
        "first module image_codebook.blocks.output.conv",
    ),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_another_computation_is_named_where_it_shows(observed, name, monkeypatch):
    """The circumstance, its outputs, the first module to differ, and that it departs from the original."""
    kind, change, begins, says = COMPUTATIONS[name]
    _built(monkeypatch, kind, change)
    new = _with_runs_anew(observed)
    if name == "an epsilon":  # which is part of the layout too
        new = _with_layout_anew(new)
    line = next(line for line in _lines(observed, new).splitlines() if line.startswith(begins))
    assert says in line
    assert verdict(observed, new).advice == (LOOK if name.startswith("a codebook") else STAY)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLANTS if name not in ("another dtype", "a wider pooler")])
def test_another_layout_is_named_key_by_key(observed, name, monkeypatch):
    """With the lines that `flava-port layout` has for it."""
    named = plant(name, observed.layout, monkeypatch)
    found = _lines(observed, observe())
    assert all(f"layout: {line}" in found for line in named)


def test_a_renamed_module_is_a_reason_to_stay(observed, monkeypatch):
    """A converted folder does not load, and nothing runs with its weights."""
    plant("a renamed submodule", observed.layout, monkeypatch)
    text, status = drift_report(observed, observe())
    assert status == 1
    assert "verdict: do not upgrade because a converted folder no longer loads right" in text
    assert "pairs: runs -> stops with InvalidInput: its keys are not those that the rules lead to" in text


def test_a_changed_default_is_named_and_harmless(observed, monkeypatch):
    """A converted folder spells every field out."""
    [line] = plant_default_epsilon(monkeypatch)
    new = _with_layout_anew(_with_runs_anew(observed))
    assert f"layout: {line}" in _lines(observed, new)
    assert verdict(observed, new).advice == SAFE


def test_another_beginning_is_named(observed, monkeypatch):
    """How a new model's parameters are initialised."""
    from transformers import FlavaPreTrainedModel

    original = FlavaPreTrainedModel._init_weights

    def init_weights(self, module):
        original(self, module)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)

    monkeypatch.setattr(FlavaPreTrainedModel, "_init_weights", init_weights)
    with quiet():
        found = _lines(observed, replace(observed, initial=observe_initial()))
    assert "initialisation: " in found and "random, 2e-02 -> random, 2e-01" in found


def test_what_stops_is_named_and_a_reason_to_stay(observed, monkeypatch):
    """With the error; and coming back, that it runs again."""
    from transformers.models.flava import modeling_flava

    original = modeling_flava.FlavaITMHead.forward

    def forward(self, x):
        if len(x) < 3:
            raise IndexError("no such row")
        return original(self, x[:1])

    monkeypatch.setattr(modeling_flava.FlavaITMHead, "forward", lambda self, x: forward(self, x[:2]))
    new = _with_runs_anew(observed)
    assert "forward: pairs: runs -> stops with IndexError: no such row; no longer as the original" in _lines(observed, new)
    assert verdict(observed, new).advice == STAY
    assert "forward: pairs: stops with IndexError: no such row -> runs; now as the original" in _lines(new, observed)
    assert "now as the original: pairs; " in str(verdict(new, observed))


def test_a_folder_that_only_the_old_release_can_read_again_is_to_be_converted_again(observed):
    """What OLD's save_pretrained leaves out is what NEW does not make up for."""
    old = replace(
        observed, saved={**observed.saved, "left out": [f"{head}.bias" for head in HEADS], "config says that they are tied": True}
    )
    new = replace(observed, loaded={**observed.loaded, "decoder.bias alone": "4 wrong: mim_head.bias is zero"})
    text, status = drift_report(old, new)
    assert status == 1 and f"verdict: {RECONVERT} because what " in text and "flava-port repair" in text


def _with_run(observation, name: str, **changes):
    runs = {**observation.runs, name: replace(observation.runs[name], **changes)}
    return replace(observation, runs=runs)


def test_gradients_that_change_or_go_are_named_and_to_be_looked_at(observed):
    """Outputs and losses may agree all the same: somebody detached something."""
    name = "pairs, labels, all match"
    gradients = dict(observed.runs[name].gradients)
    moved = _with_run(observed, name, gradients={**gradients, "itm_head.pooler.dense.bias": gradients["itm_head.pooler.dense.bias"] * 2})
    assert f"forward: {name}: gradients itm_head.pooler.dense.bias by " in _lines(observed, moved)
    assert verdict(observed, moved).advice == LOOK and drift_report(observed, moved)[1] == 1
    del gradients["itm_head.pooler.dense.bias"]
    gone = _with_run(observed, name, gradients=gradients)
    assert f"forward: {name}: no longer with a gradient: itm_head.pooler.dense.bias" in _lines(observed, gone)
    assert verdict(observed, gone).advice == LOOK
    assert f"forward: {name}: newly with a gradient: itm_head.pooler.dense.bias" in _lines(gone, observed)


def test_an_answer_where_no_original_judges_is_to_be_looked_at(observed):
    """One that is new is not."""
    name = "the codebook alone"
    answers = observed.runs[name].answers
    moved = _with_run(observed, name, answers={key: value + 1 for key, value in answers.items()})
    assert f"because there is no original to judge what changed in: {name}" in str(verdict(observed, moved))
    assert verdict(observed, _with_run(observed, name, answers={**answers, "more": torch.ones(1)})).advice == SAFE


def test_a_model_that_cannot_be_saved_is_named(observed):
    """Though nothing of what was saved before is there to compare."""
    new = replace(observed, saved={"error": "RuntimeError: no space"})
    assert "saving: error: absent -> RuntimeError: no space" in _lines(observed, new)
    assert verdict(observed, new).advice == LOOK


def test_a_name_that_a_line_has_no_room_for_is_found_all_the_same(observed):
    """By --bisect, which looks for names."""
    new = replace(observed, initial=dict.fromkeys(observed.initial, "3 throughout"))
    [found] = [
        difference for difference in changes(observed, new) if difference.text.startswith("flava.") and "0 throughout" in difference.text
    ]
    last = [key for key, value in observed.initial.items() if value == "0 throughout"][-1]
    assert last not in str(found) and found.holds(last) and not found.holds("no such key")
