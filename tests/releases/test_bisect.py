"""Bisection finds every release at which something changed, without looking at all of them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava_port.releases.bisect import bisect, describe_step
from flava_port.releases.observation import FORMS, Observation, Unobservable
from flava_port.target.epochs import EPOCHS
from flava_port.target.schema import known_schema

NOTHING = Observation({}, known_schema(EPOCHS[-1]), {}, {}, {form: "right" for form in FORMS}, {})


def _history(count: int, changes: set[int], broken: set[int]):
    """Releases, a function that observes one, and the list of those observed; ``changes`` begin something new, ``broken`` cannot be observed."""
    seen = []

    def observe(release: str):
        number = int(release)
        if number in broken:
            raise Unobservable(f"{release} has no wheel")
        seen.append(number)
        state = sum(change <= number for change in changes)
        return replace(NOTHING, versions={"transformers": release}, saved={"files": state})

    return [str(n) for n in range(count)], observe, seen


@given(st.data())
def test_every_change_is_found_between_its_neighbours(data):
    """Each change is found between the two nearest releases that can be observed, wherever the changes lie."""
    count = data.draw(st.integers(2, 40))
    changes = data.draw(st.sets(st.integers(1, count - 1), max_size=4))
    broken = data.draw(st.sets(st.integers(1, max(1, count - 2)), max_size=4)) - {0, count - 1}
    releases, observe, _ = _history(count, changes, broken)
    whole = [n for n in range(count) if n not in broken]
    expected = [(a, b) for a, b in zip(whole, whole[1:]) if any(a < change <= b for change in changes)]
    steps = list(bisect(releases, observe))
    assert [(int(s.old.versions["transformers"]), int(s.new.versions["transformers"])) for s in steps] == expected
    assert all(int(r) in broken for step in steps for r in step.skipped)


def test_it_looks_at_few():
    """Finding one change among a hundred releases observes the two ends and at most seven between them."""
    releases, observe, seen = _history(100, {37}, set())
    [step] = bisect(releases, observe)
    assert (str(step.old), str(step.new)) == ("transformers 36", "transformers 37")
    assert len(set(seen)) <= 9
    assert (
        "transformers 36 -> transformers 37\n  saving: files: 0 -> 1\n  verdict: look before you upgrade because what the original says nothing of changed: saving"
        in describe_step(step)
    )


def test_only_what_was_asked_for_is_followed():
    """Only changes whose lines have the text that was asked for are found."""
    releases, observe, _ = _history(20, {5, 11}, set())
    assert len(list(bisect(releases, observe, "files"))) == 2
    assert list(bisect(releases, observe, "padding")) == []


def test_an_end_that_cannot_be_observed_is_an_error():
    """The error says why the first release cannot be observed."""
    releases, observe, _ = _history(4, {2}, {0})
    with pytest.raises(Unobservable, match="0 has no wheel"):
        list(bisect(releases, observe))
