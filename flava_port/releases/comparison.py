"""The comparison of two observations as it is told: the verdict first, likes together, at most a screen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..text import count_of, few
from .drift import KINDS, SAFE, Advice, Change, changes, verdict
from .observation import Observation

_LIKES_SHOWN = 2  # of a kind
_SUBJECTS_SHOWN = 3
_WIDEST = 400  # characters of a line


@dataclass(frozen=True)
class Likes:
    """Changes that have the same cause, as far as can be told, and what is said of them together."""

    kind: str
    text: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class DriftReport:
    """What changed between two observations, and what a user should do."""

    old: str
    new: str
    advice: Advice
    changes: tuple[Change, ...]  # all of them, in the order of `KINDS`
    likes: tuple[Likes, ...]  # the same, likes together

    @property
    def exit_status(self) -> int:
        return 0 if self.advice.advice == SAFE else 1

    def text(self, *, everything: bool = False) -> str:
        """The verdict, both sides, then the differences by kind: on a screen, or ``everything``."""
        lines = [*str(self.advice).splitlines(), f"from  {self.old}", f"to    {self.new}"]
        for kind in KINDS:
            of_kind = [change.text for change in self.changes if change.kind == kind]
            told = of_kind if everything else [likes.text for likes in self.likes if likes.kind == kind]
            shown = told if everything else [_cut(text) for text in told[:_LIKES_SHOWN]]
            if of_kind:
                more = f"; {len(told) - len(shown)} more kinds of them: drift --all" if len(told) > len(shown) else ""
                like_above = "" if told else ", like those above"
                lines += [f"{kind:<15} {count_of(len(of_kind), 'difference')}{like_above}{more}", *(f"  {text}" for text in shown)]
        same = [kind for kind in KINDS if not any(change.kind == kind for change in self.changes)]
        return "\n".join([*lines, *([f"the same: {', '.join(same)}"] if same else [])])


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def compare(old: Observation, new: Observation) -> DriftReport:
    """The comparison of two observations."""
    found = changes(old, new)
    return DriftReport(str(old), str(new), verdict(old, new), tuple(found), tuple(together(found)))


def together(found: Sequence[Change]) -> Iterator[Likes]:
    """Changes that have the same likeness, told by the first of them, wherever in `KINDS` the others stand."""
    groups: dict[object, list[Change]] = {}
    for change in found:
        groups.setdefault(change.like or change, []).append(change)
    for likes in groups.values():
        first, *others = likes
        subjects = [change.subject for change in others]
        also = f"; and so in {count_of(len(others), 'other')}: {'; '.join(map(str, few(subjects, _SUBJECTS_SHOWN)))}" if others else ""
        yield Likes(first.kind, f"{_cut(first.text)}{also}", tuple(likes))
