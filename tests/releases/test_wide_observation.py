"""An observation has a circumstance for every way in which FLAVA is used, and names what changes in any of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from flava_port.releases.arguments import signatures, used_arguments
from flava_port.releases.comparison import compare
from flava_port.releases.drift import KINDS, LOOK, SAFE, changes, verdict
from flava_port.releases.folders import CLASSES
from flava_port.releases.observation import Observation, Run, read, write
from flava_port.releases.runs import observe_runs, sketch
from flava_port.releases.variants import LOWER_PRECISIONS, circumstances
from flava_port.target.installed import quiet
from tests.releases.plants import change_when_built

CASES = {case.name: case for case in circumstances()}


def test_every_argument_of_the_installed_release_is_used():
    """Whatever a forward or a feature getter takes, some circumstance gives it; only options for subclasses are left."""
    needed = {name for name, default in signatures().items() if default != "any" and "__init__" not in name}
    needed -= {name for name in needed if ".set_" in name}
    assert needed - used_arguments(list(CASES.values())) == set()


def test_no_two_circumstances_have_one_name():
    """Each is of a kind that a report has."""
    assert len(CASES) == len(circumstances()) and {case.kind for case in CASES.values()} <= {*KINDS}
    assert {case.variant.dtype for case in CASES.values()} == {"float64", *LOWER_PRECISIONS}


def _run(*names: str) -> dict[str, Run]:
    with quiet():
        return observe_runs([CASES[name] for name in names])


def _named(observed: Observation, before: dict[str, Run], after: dict[str, Run]) -> list[str]:
    old, new = replace(observed, runs=before), replace(observed, runs=after)
    assert verdict(old, new).advice == (LOOK if changes(old, new) else SAFE)
    return [str(change) for change in changes(old, new)]


def _without_dropout(module: nn.Module) -> None:
    module.dropout = nn.Identity()


def _half_otherwise(module: nn.Module) -> None:
    module.register_forward_hook(lambda _m, _i, output: output * 1.001 if output.dtype == torch.float16 else None)


PLANTED: dict[str, tuple[str, Callable[[nn.Module], None], str, str]] = {
    "a dropout": ("FlavaSelfOutput", _without_dropout, "training, text_config.hidden_dropout_prob = 0.3", "pairs, padded texts"),
    "half precision": ("FlavaIntermediate", _half_otherwise, "float16, features of texts", "float32, features of texts"),
    "an input of half the size": (
        "PatchEmbeddings",
        lambda module: module.register_forward_pre_hook(lambda _m, given: (given[0] * (2.0 if len(given[0]) == 1 else 1.0),)),
        "one pair, labels",
        "pairs, labels, all match",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_change_is_named_in_the_circumstance_of_its_kind_and_in_no_other(observed, name, monkeypatch):
    """What shows in one circumstance alone is attributed to it."""
    changed, change, shows, hides = PLANTED[name]
    before = _run(shows, hides)
    change_when_built(monkeypatch, changed, change)
    [line] = _named(observed, before, _run(shows, hides))
    assert line.startswith(f"{CASES[shows].kind}: {shows}: ")


def test_a_new_argument_is_a_difference_by_itself(observed):
    """If no circumstance uses it, the report says that what it does was not observed."""
    old = replace(observed, facts={"interface": {"FlavaModel.forward(input_ids)": "None"}})
    new = replace(observed, facts={"interface": {**old.facts["interface"], "FlavaModel.forward(window)": "None"}})
    report = compare(old, new)
    text, status = report.text(everything=True), report.exit_status
    assert status == 1 and "FlavaModel.forward(window): absent -> None" in text
    assert "FlavaModel.forward(window): new, and used in no circumstance" in text
    assert "what the original says nothing of changed: interface" in text.splitlines()[0]


def _rounded(by: float, machine: str, observed: Observation) -> Observation:
    value = sketch(torch.arange(1.0, 9.0)) * (1 + by)
    run = Run({"logits": value}, {}, (), kind="precision", noise=1e-4, forms={"logits": "float16 [8]"})
    return replace(observed, runs={"float16, pairs": run}, machine=machine)


@pytest.mark.parametrize(
    ("by", "machine", "is_reported"),
    [(1e-4, "another", False), (1e-3, "another", True), (1e-9, "one", True), (0.0, "one", False)],
)
def test_lower_precisions_are_held_to_their_measured_rounding(observed, by, machine, is_reported):
    """Between two machines up to a few times what rounding makes of them; on one machine to the bit."""
    assert bool(changes(_rounded(0, "one", observed), _rounded(by, machine, observed))) == is_reported


def test_another_form_is_a_difference(observed):
    """A dtype, a shape, a number of values that are not finite, or the loss of a gradient."""
    old = _rounded(0, "one", observed)
    [run] = old.runs.values()
    new = replace(old, runs={"float16, pairs": replace(run, forms={"logits": "float32 [8], 1 nan"})})
    [found] = changes(old, new)
    assert found.text == "float16, pairs: logits float16 [8] -> float32 [8], 1 nan"
    assert verdict(old, new).advice == LOOK


def test_likes_are_told_together_and_each_on_demand(observed):
    """Many circumstances that change for one cause are one line, and the whole report fits on a screen."""
    old = replace(observed, facts={kind: {f"{kind} {n}": n for n in range(50)} for kind in ("interface", "config", "saving", "loading")})
    new = replace(old, facts={kind: {name: -n for name, n in facts.items()} for kind, facts in old.facts.items()})
    runs = {name: replace(run, error="RuntimeError: gone", answers={}) for name, run in observed.runs.items() if not run.error}
    new = replace(new, runs={**observed.runs, **runs})
    report = compare(old, new)
    assert len(report.text().splitlines()) <= 40 and report.text().startswith("verdict: ")
    [likes] = [likes for likes in report.likes if likes.text.startswith("pairs, token types: ")] or [report.likes[-1]]
    assert likes.changes and sum(len(likes.changes) for likes in report.likes) == len(report.changes)
    assert len(report.text(everything=True).splitlines()) > len(report.changes) > 200
    assert "and so in " in report.text() and "drift --all" in report.text()


@pytest.mark.slow
def test_a_wide_observation_is_small_and_has_every_kind(observed_widely, tmp_path):
    """Its file stays under 5 MB and gives back what was observed."""
    write(observed_widely, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 5e6
    again = read(tmp_path / "file")
    assert changes(observed_widely, again) == [] and again.facts.keys() == observed_widely.facts.keys()
    assert {run.kind for run in again.runs.values()} | {*again.facts} >= {*KINDS} - {"schema", "initialisation", "two processes"}
    assert {name.split(" ")[0] for name in again.facts["loading"]} >= {*CLASSES}
    stopped = {name for name, value in again.facts["loading"].items() if "stops with" in str(value)}
    assert {name for name in stopped if " from " in name} == set()  # every class loads, from a whole folder and from its own
