"""Each release at which something changed, found by halves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .drift import Change, Unobservable, changes, first_lines, verdict
from .observation import Observation

# ------------------------------------------------------------------------------------- bisect


@dataclass(frozen=True)
class Transition:
    """Two neighbouring releases that differ; those between them could not be observed."""

    old: Observation
    new: Observation
    found: list[Change]
    skipped: tuple[str, ...] = ()


def bisect(releases: Sequence[str], observe: Callable[[str], Observation], matching: str = "") -> Iterator[Transition]:
    """Each release at which something changed, oldest first, of those whose differences hold the text ``matching``.

    A change that a later release takes back between two that are looked at stays unseen.

    Raises:
        Unobservable: the first or the last release is.
    """

    def between(first: int, last: int) -> Iterator[Transition]:
        old, new = observe(releases[first]), observe(releases[last])
        found = [difference for difference in changes(old, new) if difference.holds(matching)]
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
    skipped = f" (in between, not to be observed: {', '.join(step.skipped)})" if step.skipped else ""
    return "\n".join(
        [
            f"{step.old} -> {step.new}{skipped}",
            *(f"  {line}" for line in first_lines([str(difference) for difference in step.found])),
            f"  {verdict(step.old, step.new)}",
            "",
        ]
    )
