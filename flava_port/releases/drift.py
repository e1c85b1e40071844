"""What changed for FLAVA between two observations, which of the two agrees with the original, and what a user should do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from ..proof.forward import relative_error
from ..target.keys import TIED_KEYS
from ..target.schema_differences import schema_differences
from ..text import count_of, few
from .observation import FORMS, OURS, Observation, Run

# The relative error above which a result counts as changed. Circumstances run in float64. Under one torch, releases of
# transformers that compute the same give the same bits; between torch 2.6 and 2.13 gradients move by 1e-15. The weakest
# fault that was planted, an epsilon of 1e-11 for 1e-12 in one layer norm of each layer, moves an output by 1e-11.
ROUNDING = 2e-12

LINES_SHOWN = 40
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One difference between two observations."""

    kind: str  # one of `KINDS`
    text: str
    whole: str = ""  # all the names that it is about, where the text has the first few

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def holds(self, text: str) -> bool:
        """Whether the text stands in the line, or in a name that the line left out."""
        return text in f"{self}\n{self.whole}"


KINDS = ("schema", "initialisation", "saving", "loading", "forward")


def changes(old: Observation, new: Observation) -> list[Change]:
    """Everything that differs by more than rounding, in the order of `KINDS`."""
    return [
        *(Change("schema", line) for line in schema_differences(old.schema, new.schema)),
        *_of_values("initialisation", old.initial, new.initial),
        *_of_values("saving", old.saved, new.saved),
        *_of_values("loading", old.loaded, new.loaded),
        *(found for name, run in old.runs.items() if name in new.runs for found in _of_runs(name, run, new.runs[name])),
    ]


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


def _of_runs(name: str, old: Run, new: Run) -> Iterator[Change]:
    """At most one change: the outputs, losses and gradients of a circumstance that changed, and the first module that did."""
    if old.error or new.error:
        if _error_type(old) != _error_type(new):
            yield Change("forward", f"{name}: {_ran(old)} -> {_ran(new)}{_judgement(old, new)}")
        return
    moved = {"outputs": _moved(old.answers, new.answers), "gradients": _moved(old.gradients, new.gradients, _usual(old.gradients))}
    parts = [f"{what} {_some([f'{key} by {size:.1e}' for key, size in found.items()])}" for what, found in moved.items() if found]
    names = [key for found in moved.values() for key in found]
    for noun, before, after in (("answered", old.answers, new.answers), ("with a gradient", old.gradients, new.gradients)):
        for what, only in (("no longer", before.keys() - after.keys()), ("newly", after.keys() - before.keys())):
            if only:
                parts.append(f"{what} {noun}: {_some(sorted(only))}")
                names += sorted(only)
    if parts:
        text = f"{name}: {'; '.join(parts)}{_first_module(old, new)}{_judgement(old, new)}"
        yield Change("forward", text, ", ".join(names))


def _answers_otherwise(old: Run, new: Run) -> bool:
    """Whether an answer changed or is gone, or a gradient changed, is gone or is new."""
    if old.error or new.error:
        return not old.error
    lost = (old.answers.keys() - new.answers.keys()) or (old.gradients.keys() ^ new.gradients.keys())
    return bool(lost or _moved(old.answers, new.answers) or _moved(old.gradients, new.gradients, _usual(old.gradients)))


def _error_type(run: Run) -> str:
    """The error's type, since releases word the same error differently; empty where the circumstance runs."""
    return run.error.partition(":")[0]


def _ran(run: Run) -> str:
    return f"stops with {run.error}" if run.error else "runs"


def _moved(old: Mapping[str, Tensor], new: Mapping[str, Tensor], least: float = 0.0) -> dict[str, float]:
    """The relative error of each tensor that changed by more than rounding, the largest first.

    Errors are relative to the tensor's largest value, or to ``least`` where that is more.
    """
    sizes = {key: relative_error(new[key], value, least) for key, value in old.items() if key in new}
    return dict(sorted(((key, size) for key, size in sizes.items() if size > ROUNDING), key=lambda item: -item[1]))


def _usual(gradients: Mapping[str, Tensor]) -> float:
    """The median of the gradients' largest values. Some gradients, such as attention's key.bias, are nothing but rounding."""
    sizes = sorted(float(value.abs().max()) for value in gradients.values())
    return sizes[len(sizes) // 2] if sizes else 0.0


def _first_module(old: Run, new: Run) -> str:
    """The first module whose output differs, and the one before it, which agrees; what changed lies between the two."""
    agreed = ""
    for before, after in zip_longest(old.modules, new.modules):
        if before is None or after is None or before[0] != after[0]:
            return f"; first, {after[0] if after else 'nothing'} is called where {before[0] if before else 'nothing'} was"
        if relative_error(after[1], before[1]) > ROUNDING:
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
    others = [name for name, (before, after) in pairs.items() if name not in better and _answers_otherwise(before, after)]
    if others:
        looking.append(f"outputs changed where the original offers no reference: {_some(others, '; ')}")
    return Advice(LOOK, tuple(looking), tuple(notes)) if looking else Advice(SAFE, (), tuple(notes))


def _no_longer(old: Observation, new: Observation, pairs: Mapping[str, tuple[Run, Run]]) -> Iterator[str]:
    """Why a converted folder is no longer the original under the new release."""
    if new.loaded[OURS] != "right" == old.loaded[OURS]:
        yield f"a converted folder no longer loads right ({new.loaded[OURS]})"
    ran = {name: pair for name, pair in pairs.items() if not pair[0].error}
    if worse := [name for name, (before, after) in ran.items() if after.error or (_agrees(before) and _agrees(after) is False)]:
        yield f"it no longer computes what the original does ({_some(worse, '; ')})"


def _form_saved(observation: Observation) -> str | None:
    """The form of folder that save_pretrained makes, one of `FORMS`; None where it is none of them."""
    left_out = {str(key) for key in observation.saved.get("left out", ())} & TIED_KEYS
    says_tied = observation.saved.get("config says that they are tied")
    return next((name for name, form in FORMS.items() if form.left_out == left_out and form.says_tied == says_tied), None)


def drift_report(old: Observation, new: Observation) -> tuple[str, int]:
    """The changes by kind, then the verdict; and the exit status, 0 only where it is safe to upgrade."""
    found = changes(old, new)
    lines = [f"from  {old}", f"to    {new}"]
    for kind in KINDS:
        of_kind = [change.text for change in found if change.kind == kind]
        lines.append(f"{kind:<15} {count_of(len(of_kind), 'difference')}" if of_kind else f"{kind:<15} the same")
        lines += [f"  {text}" for text in few(of_kind, LINES_SHOWN)]
    settled = verdict(old, new)
    return "\n".join([*lines, "", str(settled)]), 0 if settled.advice == SAFE else 1
