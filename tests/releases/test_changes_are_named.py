"""A change planted in the installed transformers is named: key by key, or with the circumstances that show it; with the right advice."""

import math
from dataclasses import replace

import pytest
import torch

from flava_port.releases.circumstances import plain_circumstances
from flava_port.releases.comparison import compare
from flava_port.releases.drift import KINDS, LOOK, RECONVERT, SAFE, STAY, changes, verdict
from flava_port.releases.observe import observe_in_short, observe_initial
from flava_port.releases.runs import observe_runs
from flava_port.target.installed import quiet
from flava_port.target.keys import HEADS
from flava_port.target.schema import observe_schema
from flava_port.target.schema_differences import schema_differences
from tests.releases.plants import PLANTS, change_when_built, plant, plant_default_epsilon


def _lines(old, new) -> str:
    found = changes(old, new)
    assert {change.kind for change in found} <= set(KINDS)
    return "\n".join(map(str, found))


def _with_runs_anew(observed):
    """The observation with runs observed anew, which suffices where a change reaches the forward pass alone."""
    with quiet():
        return replace(observed, runs=observe_runs(plain_circumstances()))


def _with_schema_anew(observed):
    return replace(observed, schema=observe_schema())


def test_changes_of_the_schema_planted_together_are_all_named(observed_schema, monkeypatch):
    """Each planted change is named by its own lines, and nothing else is."""
    named = [line for name in PLANTS for line in plant(name, observed_schema, monkeypatch)]
    named += plant_default_epsilon(monkeypatch)
    assert sorted(schema_differences(observed_schema, observe_schema())) == sorted(named)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_change_of_the_schema_planted_alone_is_named(observed_schema, name, monkeypatch):
    """A planted change is named by its own lines, and nothing else is."""
    named = plant(name, observed_schema, monkeypatch)
    assert sorted(schema_differences(observed_schema, observe_schema())) == sorted(named)


# The class that is changed, what is done to its objects, how a line must begin, and what must stand in that line.
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
        "forward: features of texts, padded: outputs ",
        "first module flava.text_model.encoder.layer.0.layernorm_after",
    ),
    "a codebook's activation": (
        "FlavaImageCodebook",
        lambda module: module.blocks.output.conv.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.001,)),
        "forward: the codebook alone: outputs ",
        "first module image_codebook.blocks.output.conv",
    ),
}


# The others are named in the same way.
QUICK = "an attention scale", "a codebook's activation"


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMPUTATIONS])
def test_another_computation_is_named_where_it_shows(observed, name, monkeypatch):
    """The line has the circumstance, its outputs, the first module to differ, and that it departs from the original."""
    changed, change, begins, says = COMPUTATIONS[name]
    change_when_built(monkeypatch, changed, change)
    new = _with_runs_anew(observed)
    if name == "an epsilon":  # which is part of the schema too
        new = _with_schema_anew(new)
    line = next(line for line in _lines(observed, new).splitlines() if line.startswith(begins))
    assert says in line
    assert verdict(observed, new).advice == (LOOK if name.startswith("a codebook") else STAY)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLANTS if name not in ("another dtype", "a wider pooler")])
def test_another_schema_is_named_key_by_key_in_an_observation(observed, name, monkeypatch):
    """`drift` names a planted change with the lines that `flava-port layout` has for it."""
    named = plant(name, observed.schema, monkeypatch)
    found = _lines(observed, observe_in_short())
    assert all(f"schema: {line}" in found for line in named)


def test_a_renamed_module_is_a_reason_to_stay(observed, monkeypatch):
    """If a module is renamed, a converted folder does not load, nothing runs with its weights, and the advice is not to upgrade."""
    plant("a renamed submodule", observed.schema, monkeypatch)
    report = compare(observed, observe_in_short())
    text, status = report.text(), report.exit_status
    assert status == 1
    assert "verdict: do not upgrade because a converted folder no longer loads right" in text
    assert "pairs: runs -> stops with InvalidInput: its keys are not those that the rules lead to" in text


def test_a_changed_default_is_named_and_to_be_looked_at(observed, monkeypatch):
    """A changed default is named. A converted folder spells every field out, and runs as before; new models do not."""
    [line] = plant_default_epsilon(monkeypatch)
    new = _with_schema_anew(_with_runs_anew(observed))
    assert f"schema: {line}" in _lines(observed, new)
    assert str(verdict(observed, new)) == f"verdict: {LOOK} because what the original says nothing of changed: schema"


def test_another_beginning_is_named(observed, monkeypatch):
    """A change of how parameters are initialised is named with both deviations."""
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
    """A circumstance that stops is named with the error; in the other direction, that it runs again."""
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
    """If the new release does not load what the old one saves, the advice is to reconvert or to repair."""
    old = replace(
        observed, saved={**observed.saved, "left out": [f"{head}.bias" for head in HEADS], "config says that they are tied": True}
    )
    new = replace(observed, loaded={**observed.loaded, "decoder.bias alone": "4 wrong: mim_head.bias is zero"})
    report = compare(old, new)
    text, status = report.text(), report.exit_status
    assert status == 1 and f"verdict: {RECONVERT} because what " in text and "flava-port repair" in text


def _with_run(observation, name: str, **changes):
    runs = {**observation.runs, name: replace(observation.runs[name], **changes)}
    return replace(observation, runs=runs)


def test_gradients_that_change_or_go_are_named_and_to_be_looked_at(observed):
    """A gradient that changes, goes or comes is named and to be looked at, though outputs and losses agree."""
    name = "pairs, labels, all match"
    gradients = dict(observed.runs[name].gradients)
    moved = _with_run(observed, name, gradients={**gradients, "itm_head.pooler.dense.bias": gradients["itm_head.pooler.dense.bias"] * 2})
    assert f"forward: {name}: gradients itm_head.pooler.dense.bias by " in _lines(observed, moved)
    assert verdict(observed, moved).advice == LOOK and compare(observed, moved).exit_status == 1
    del gradients["itm_head.pooler.dense.bias"]
    gone = _with_run(observed, name, gradients=gradients)
    assert f"forward: {name}: no longer with a gradient: itm_head.pooler.dense.bias" in _lines(observed, gone)
    assert verdict(observed, gone).advice == LOOK
    assert f"forward: {name}: newly with a gradient: itm_head.pooler.dense.bias" in _lines(gone, observed)


def test_an_answer_where_no_original_judges_is_to_be_looked_at(observed):
    """A changed answer for which the original is no reference is to be looked at; a new answer is not."""
    name = "the codebook alone"
    answers = observed.runs[name].answers
    moved = _with_run(observed, name, answers={key: value + 1 for key, value in answers.items()})
    assert f"because outputs changed where the original offers no reference: {name}" in str(verdict(observed, moved))
    assert verdict(observed, _with_run(observed, name, answers={**answers, "more": torch.ones(1)})).advice == SAFE


def test_a_model_that_cannot_be_saved_is_named(observed):
    """If saving stops with an error, the error is named and to be looked at."""
    new = replace(observed, saved={"error": "RuntimeError: no space"})
    assert "saving: error: absent -> RuntimeError: no space" in _lines(observed, new)
    assert verdict(observed, new).advice == LOOK


def test_a_name_that_a_line_has_no_room_for_is_found_all_the_same(observed):
    """`--bisect TEXT` finds a name that the line cut short."""
    new = replace(observed, initial=dict.fromkeys(observed.initial, "3 throughout"))
    [found] = [change for change in changes(observed, new) if change.text.startswith("flava.") and "0 throughout" in change.text]
    last = [key for key, value in observed.initial.items() if value == "0 throughout"][-1]
    assert last not in str(found) and found.holds(last) and not found.holds("no such key")
