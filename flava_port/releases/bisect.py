"""Each release at which something changed, found by halves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..text import few
from .drift import LINES_SHOWN, Change, changes, verdict
from .observation import Observation, Unobservable


@dataclass(frozen=True)
class Transition:
    """Two releases that differ, neighbours but for the ``skipped`` ones between them, which could not be observed."""

    old: Observation
    new: Observation
    found: list[Change]
    skipped: tuple[str, ...] = ()


def bisect(releases: Sequence[str], observe: Callable[[str], Observation], matching: str = "") -> Iterator[Transition]:
    """Each release at which something changed, oldest first; only changes that are about the text ``matching``.

    Releases between two that do not differ are not observed, so that a change which is taken back between them is missed.

    Raises:
        Unobservable: the first or the last release cannot be observed.
    """

    def between(first: int, last: int) -> Iterator[Transition]:
        old, new = observe(releases[first]), observe(releases[last])
        found = [change for change in changes(old, new) if change.holds(matching)]
        if not found:
            return
        for middle in sorted(range(first + 1, last), key=lambda n: abs(2 * n - first - last)):
            try:
                observe(releases[middle])
            except Unobservable:
                continue
            yield from between(first, middle)
            yield from between(middle, last)
            return
        yield Transition(old, new, found, tuple(releases[first + 1 : last]))

    yield from between(0, len(releases) - 1)


def describe_step(step: Transition) -> str:
    """The two releases, what changed between them, and the verdict."""
    skipped = f" (could not be observed in between: {', '.join(step.skipped)})" if step.skipped else ""
    lines = *few([str(change) for change in step.found], LINES_SHOWN), verdict(step.old, step.new)
    return "\n".join([f"{step.old} -> {step.new}{skipped}", *(f"  {line}" for line in lines), ""])
