"""An observation holds what the installed releases do, and nothing of chance."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from flava_port.errors import InvalidInput
from flava_port.releases.circumstances import flattened, plain_circumstances
from flava_port.releases.drift import ROUNDING, changes
from flava_port.releases.observation import Observation, read
from flava_port.releases.observe import observe_initial, observe_installed
from flava_port.releases.runs import observe_runs
from flava_port.releases.small_model import AS_IT_IS, build_model
from flava_port.target.installed import quiet

JUDGED = [case.name for case in plain_circumstances() if case.judged]


@pytest.mark.parametrize("name", JUDGED)
def test_the_installed_release_computes_what_the_original_does(observed, name):
    """Outputs, losses and last states are the original's in every circumstance that it has too."""
    run = observed.runs[name]
    assert not run.error, run.error
    assert run.from_original <= ROUNDING


def test_every_circumstance_is_observed(observed):
    """Each has answers, the modules that gave them, and gradients if there are labels; or the reason why it has none."""
    for case in plain_circumstances():
        run = observed.runs[case.name]
        assert run.error or run.modules
        assert run.error or run.answers or case.options.get("return_dict") is False  # a tuple of nothing but None, before 5.13.0
        assert run.error or bool(run.gradients) == case.has_gradients


def test_no_answer_is_lost_or_constant():
    """Every answer varies, since a comparison of constants would see nothing."""
    with quiet():
        model = build_model(AS_IT_IS)
        answers = {case.name: case.run(model) for case in plain_circumstances() if case.judged and not case.has_gradients}
    for name, found in answers.items():
        for key, value in found.items():
            if value.numel() > 1 and value.is_floating_point():
                assert value[value.isfinite()].unique().numel() > 1, (name, key)


def test_what_chance_has_a_part_in_is_observed_the_same_again(observed):
    """Initialisation and every run give the same when observed again."""
    with quiet():
        assert_the_same(
            replace(observed, initial=observe_initial(), runs={**observed.runs, **observe_runs(plain_circumstances())}), observed
        )


@pytest.mark.slow
def test_observing_all_of_it_again_gives_the_same(observed_widely):
    """A second observation of the same environment differs in nothing."""
    assert_the_same(observe_installed(), observed_widely)


def assert_the_same(actual: Observation, expected: Observation) -> None:
    """The two observations agree bit for bit."""
    __tracebackhide__ = True
    assert changes(expected, actual) == []
    for name, run in expected.runs.items():
        assert all(torch.equal(value, actual.runs[name].answers[key]) or value.isnan().any() for key, value in run.answers.items()), name


def test_a_file_gives_back_what_was_observed(observed, file):
    """Every part of an observation is read back as it was written."""
    again = read(file)
    assert changes(observed, again) == [] and changes(again, observed) == []
    assert again.versions == observed.versions and again.schema == observed.schema
    for name, run in observed.runs.items():
        assert again.runs[name].answers.keys() == run.answers.keys()
        assert [module for module, _ in again.runs[name].modules] == [module for module, _ in run.modules]
        assert (again.runs[name].error, again.runs[name].from_original) == (run.error, run.from_original)


@pytest.mark.parametrize("content", [b"", b"no observation", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    """The message names the file."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidInput, match="file: no observation"):
        read(tmp_path / "file")


def _no_such(about: dict) -> None:
    del about["loaded"]["bias alone"]


HARMS = {
    "versions a list": lambda about: about.update(versions=["5.0.0"]),
    "a version that is a number": lambda about: about["versions"].update(torch=2.13),
    "nothing saved": lambda about: about.update(saved=None),
    "no shapes": lambda about: about["schema"].update(shapes=None),
    "a tie that is none": lambda about: about["schema"].update(ties=[3]),
    "a distance in words": lambda about: next(iter(about["runs"].values())).update(from_original="far"),
    "a run that is none": lambda about: about["runs"].update(pairs=7),
    "modules of another run": lambda about: about["runs"]["pairs"].update(modules=0),
    "modules that are not listed": lambda about: about["runs"]["pairs"].update(modules=9999),
    "names that are none": lambda about: about["names"].append(["a", 3]),
    "a form of folder missing": _no_such,
}


@pytest.fixture(scope="module")
def content(file):
    """The metadata of the observation's file, and its tensors."""
    with safe_open(file, "pt") as opened:
        return opened.metadata()["observation"], {key: opened.get_tensor(key) for key in opened.keys()}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_file_that_was_edited_is_refused(content, tmp_path, harm):
    """The message names the file, whichever part is not what it should be."""
    said, tensors = content
    about = json.loads(said)
    harm(about)
    save_file(tensors, tmp_path / "edited", {"observation": json.dumps(about)})
    with pytest.raises(InvalidInput, match=r"edited: no observation \("):
        read(tmp_path / "edited")


def test_the_command_refuses_it_too(run_command, file, tmp_path):
    """`drift` prints one message and no traceback."""
    save_file({}, tmp_path / "edited", {"observation": "{}"})
    ran = run_command("drift", "--from", file, "--to", tmp_path / "edited")
    assert ran.status == 2 and "edited: no observation (" in ran.err and len(ran.err.splitlines()) == 1


def test_answers_of_any_nesting_are_flattened():
    """Tensors in outputs, dicts and tuples are found by name; what is no tensor is left out."""
    one = torch.ones(1)
    assert [name for name, _ in flattened({"a": one, "b": (one, None, [one]), "c": {"d": one}, "e": 3})] == ["a", "b[0]", "b[2][0]", "c.d"]
