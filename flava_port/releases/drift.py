"""What changed for FLAVA between two observations, which of the two agrees with the original, and what a user should do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from ..proof.forward import relative_error
from ..target.keys import TIED_KEYS
from ..target.schema_differences import schema_differences
from ..text import few
from .arguments import used_arguments
from .observation import FORMS, OURS, Observation, Run
from .runs import usual
from .variants import TRAINING, circumstances

# The relative error above which a result counts as changed. Circumstances run in float64. Under one torch, releases of
# transformers that compute the same give the same bits; between torch 2.6 and 2.13 gradients move by 1e-15. The weakest
# fault that was planted, an epsilon of 1e-11 for 1e-12 in one layer norm of each layer, moves an output by 1e-11. Lower
# precisions give the same bits too on one machine. Between two, results of a lower precision count as changed above
# this many times the error that rounding was measured to make in them (`Run.noise`).
ROUNDING = 2e-12
_TIMES_THE_NOISE = 4

LINES_SHOWN = 40
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One difference between two observations."""

    kind: str  # one of `KINDS`
    text: str
    whole: str = ""  # all the names that it is about, where the text has the first few
    subject: str = ""  # the circumstance in which it shows
    like: str = ""  # what it has in common with others, which a summary says together

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def holds(self, text: str) -> bool:
        """Whether the text stands in the line, or in a name that the line left out."""
        return text in f"{self}\n{self.whole}"


_FACTS = ("interface", "config", "saving", "loading", "processing")
KINDS = (
    "schema", "interface", "initialisation", "saving", "loading",
    "forward", "config", "training", "precision", "two processes", "processing",
)  # fmt: skip


def changes(old: Observation, new: Observation) -> list[Change]:
    """Everything that differs by more than rounding, in the order of `KINDS`. What one side did not observe is left out."""
    same_machine = bool(old.machine) and old.machine == new.machine
    found = [
        *(Change("schema", line) for line in schema_differences(old.schema, new.schema)),
        *_of_values("initialisation", old.initial, new.initial),
        *_of_values("saving", old.saved, new.saved),
        *_of_values("loading", old.loaded, new.loaded),
        *(change for kind in _FACTS if kind in old.facts and kind in new.facts for change in _of_facts(kind, old, new)),
        *(change for name, run in old.runs.items() if name in new.runs for change in _of_runs(name, run, new.runs[name], same_machine)),
    ]
    return sorted(found, key=lambda change: KINDS.index(change.kind))


def _of_facts(kind: str, old: Observation, new: Observation) -> Iterator[Change]:
    """What differs of a kind of facts; a new argument that no circumstance uses is said to be one."""
    yield from _of_values(kind, old.facts[kind], new.facts[kind])
    if kind == "interface":
        arguments = {name for name in new.facts[kind].keys() - old.facts[kind].keys() if name.endswith(")") and "forward(" in name}
        unused = sorted(name for name in arguments - used_arguments(circumstances()) if new.facts[kind][name] != "any")
        if unused:
            yield Change(
                kind, f"{_some(unused)}: new, and used in no circumstance, so that what it does was not observed", ", ".join(unused)
            )


def _of_values(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """What differs, names that changed alike in one line. A parameter that only one release has is left to the schema."""
    likes: dict[str, list[str]] = {}
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before != after and not (kind == "initialisation" and _ABSENT in (before, after)):
            likes.setdefault(f"{_short(before)} -> {_short(after)}", []).append(name)
    for change, names in likes.items():
        yield Change(kind, f"{_some(names)}: {change}", ", ".join(names))


_ABSENT = "absent"


def _short(value: object) -> str:
    return _some([str(item) for item in value]) if isinstance(value, list | tuple) else str(value)


def _some(names: Sequence[str], between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    return between.join(few(names, _NAMES_SHOWN)) or "none"


def _of_runs(name: str, old: Run, new: Run, same_machine: bool) -> Iterator[Change]:
    """At most one change: the outputs, losses and gradients of a circumstance that changed, and the first module that did."""
    if old.error or new.error:
        if _error_type(old) != _error_type(new):
            text = f"{_ran(old)} -> {_ran(new)}{_judgement(old, new)}"
            yield Change(new.kind, f"{name}: {text}", subject=name, like=text)
        return
    noise = 0.0 if same_machine else max(old.noise, new.noise)
    least = max(ROUNDING, _TIMES_THE_NOISE * noise)
    moved = {what: _moved(*sides, least) for what, sides in _sides(old, new).items()}
    parts = [f"{what} {_some([f'{key} by {size:.1e}' for key, size in found.items()])}" for what, found in moved.items() if found]
    names = [key for found in moved.values() for key in found]
    for text, only in _come_and_gone(old, new):
        parts.append(text)
        names += only
    if parts:
        first = _first_module(old, new, least)
        like = re.sub(r"\d+", "N", first) + _judgement(old, new) or ", ".join(part.split()[0] for part in parts)
        yield Change(new.kind, f"{name}: {'; '.join(parts)}{first}{_judgement(old, new)}", ", ".join(names), name, like)


def _sides(old: Run, new: Run) -> dict[str, tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]]:
    """By kind the old tensors, the new ones, and the least size that errors are relative to."""
    return {"outputs": (old.answers, new.answers, 0.0), "gradients": (old.gradients, new.gradients, usual(old.gradients))}


def _come_and_gone(old: Run, new: Run) -> Iterator[tuple[str, list[str]]]:
    """In words, with the names: what is answered or has a gradient on one side alone, what has another form, other calls in training."""
    for noun, before, after in (("answered", old.answers, new.answers), ("with a gradient", old.gradients, new.gradients)):
        for what, only in (("no longer", before.keys() - after.keys()), ("newly", after.keys() - before.keys())):
            if only:
                yield f"{what} {noun}: {_some(sorted(only))}", sorted(only)
    formed = [key for key, form in old.forms.items() if key in new.forms and new.forms[key] != form]
    if formed:
        yield f"{_some([f'{key} {old.forms[key]} -> {new.forms[key]}' for key in formed])}", formed
    if new.kind == TRAINING and [name for name, _ in old.modules] != [name for name, _ in new.modules]:
        yield f"{len(old.modules)} -> {len(new.modules)} calls of modules", []


def _answers_otherwise(old: Run, new: Run) -> bool:
    """Whether an answer changed or is gone, or a gradient changed, is gone or is new."""
    if old.error or new.error:
        return _error_type(old) != _error_type(new)
    if any(_moved(*sides, ROUNDING) for sides in _sides(old, new).values()):
        return True
    return any(not text.startswith("newly answered") for text, _ in _come_and_gone(old, new))


def _error_type(run: Run) -> str:
    """The error's type, since releases word the same error differently; empty where the circumstance runs."""
    return run.error.partition(":")[0]


def _ran(run: Run) -> str:
    return f"stops with {run.error}" if run.error else "runs"


def _moved(old: Mapping[str, Tensor], new: Mapping[str, Tensor], usual_size: float, least: float) -> dict[str, float]:
    """The relative error of each tensor that changed by more than ``least``, the largest first.

    Errors are relative to the tensor's largest value, or to ``usual_size`` where that is more.
    """
    sizes = {key: relative_error(new[key], value, usual_size) for key, value in old.items() if key in new}
    return dict(sorted(((key, size) for key, size in sizes.items() if size > least), key=lambda item: -item[1]))


def _first_module(old: Run, new: Run, least: float) -> str:
    """The first module whose output differs, and the one before it, which agrees; what changed lies between the two."""
    agreed = ""
    for before, after in zip_longest(old.modules, new.modules):
        if before is None or after is None or before[0] != after[0]:
            return f"; first, {after[0] if after else 'nothing'} is called where {before[0] if before else 'nothing'} was"
        if relative_error(after[1], before[1]) > least:
            return f"; first module {after[0]}{agreed}"
        agreed = f", after {before[0]}"
    return ""


def _judgement(old: Run, new: Run) -> str:
    """Which of the two agrees with the original; empty where both do, or the original has no such use."""
    agree = [_agrees(old), _agrees(new)]
    if agree == [False, True]:
        return "; now as the original"
    if agree == [True, False]:
        return "; no longer as the original"
    return "; neither as the original" if agree == [False, False] else ""


def _agrees(run: Run) -> bool | None:
    """Whether a run agrees with the original; None where that has no such use. A run that stopped does not."""
    return None if run.from_original is None else run.from_original <= ROUNDING


@dataclass(frozen=True)
class Advice:
    """What a user should do, and the reasons not simply to upgrade."""

    advice: str  # SAFE, LOOK, RECONVERT or STAY
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        because = f" because {'; '.join(self.reasons)}" if self.reasons else ""
        return "\n".join([f"verdict: {self.advice}{because}", *(f"  {note}" for note in self.notes)])


SAFE, LOOK, RECONVERT, STAY = "safe to upgrade", "look before you upgrade", "reconvert", "do not upgrade"


def verdict(old: Observation, new: Observation) -> Advice:
    """The gravest advice that the changes call for.

    Stay where a converted folder would load or compute otherwise than the original. Reconvert where what the old release
    itself saved no longer loads right. Look where something changed for which the original is no reference.
    """
    pairs = {name: (run, new.runs[name]) for name, run in old.runs.items() if name in new.runs}
    better = [name for name, (before, after) in pairs.items() if _agrees(before) is False and _agrees(after)]
    notes = [f"now as the original: {_some(better, '; ')}"] if better else []
    if staying := list(_no_longer(old, new, pairs)):
        return Advice(STAY, tuple(staying), tuple(notes))
    saved = _form_saved(old)
    if saved and new.loaded[saved] != "right":
        before, after = old.versions["transformers"], new.versions["transformers"]
        lost = f"what {before} itself saves ({saved}) does not load right in {after} ({new.loaded[saved]})"
        return Advice(RECONVERT, (lost,), ("or flava-port repair --converted_path OUT, before or after", *notes))
    looking = [f"it can no longer save a model ({new.saved['error']})"] if "error" in new.saved and "error" not in old.saved else []
    found = changes(old, new)
    if others := [change.subject for change in found if change.subject and _is_to_be_looked_at(*pairs[change.subject])]:
        looking.append(f"outputs changed where the original offers no reference: {_some(others, '; ')}")
    if besides := dict.fromkeys(change.kind for change in found if not change.subject):
        looking.append(f"what the original says nothing of changed: {', '.join(besides)}")
    return Advice(LOOK, tuple(looking), tuple(notes)) if looking else Advice(SAFE, (), tuple(notes))


def _is_to_be_looked_at(old: Run, new: Run) -> bool:
    """Whether the run changed otherwise than by agreeing with the original now."""
    return not (_agrees(old) is False and _agrees(new)) and _answers_otherwise(old, new)


def _no_longer(old: Observation, new: Observation, pairs: Mapping[str, tuple[Run, Run]]) -> Iterator[str]:
    """Why a converted folder is no longer the original under the new release."""
    if new.loaded[OURS] != "right" == old.loaded[OURS]:
        yield f"a converted folder no longer loads right ({new.loaded[OURS]})"
    if worse := [name for name, (before, after) in pairs.items() if _agrees(before) and _agrees(after) is False]:
        yield f"it no longer computes what the original does ({_some(worse, '; ')})"


def _form_saved(observation: Observation) -> str | None:
    """The form of folder that save_pretrained makes, one of `FORMS`; None where it is none of them."""
    left_out = {str(key) for key in observation.saved.get("left out", ())} & TIED_KEYS
    says_tied = observation.saved.get("config says that they are tied")
    return next((name for name, form in FORMS.items() if form.left_out == left_out and form.says_tied == says_tied), None)
