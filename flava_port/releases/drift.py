"""What changed for FLAVA between two observations, in whose favour, and what a user should do about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from torch import Tensor

from ..errors import FlavaPortError
from ..proof.forward import relative_error
from ..target.epochs import schema_differences
from ..target.keys import TIED
from ..text import count_of
from .observation import FORMS, OURS, Observation, Run

# Circumstances run in float64. Under one torch, releases of transformers that compute alike give the same bits; between
# torch 2.6 and 2.13 gradients move by 1e-15. The weakest fault that was planted, an epsilon of 1e-11 for 1e-12 in one
# layer norm of each layer, moves an output by 1e-11.
ROUNDING = 2e-12

_SHOWN = 40
_NAMED = 3  # of what changed, before "and so many more"


class Unobservable(FlavaPortError):
    """An environment could not be made, or does not run what is observed."""

    exit_status = 2


@dataclass(frozen=True)
class Change:
    """``kind`` is what a table's row is about; ``text`` names the difference itself."""

    kind: str
    text: str
    whole: str = ""  # the same with every name, where the text has the first few

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def holds(self, text: str) -> bool:
        """Whether it is about that, in any of its names."""
        return text in f"{self}\n{self.whole}"


KINDS = ("layout", "initialisation", "saving", "loading", "forward")


def changes(old: Observation, new: Observation) -> list[Change]:
    """Everything that differs but for rounding, by kind."""
    return [
        *(Change("layout", line) for line in schema_differences(old.layout, new.layout)),
        *_of_values("initialisation", old.initial, new.initial),
        *_of_values("saving", old.saved, new.saved),
        *_of_values("loading", old.loaded, new.loaded),
        *(found for name, run in old.runs.items() if name in new.runs for found in _of_runs(name, run, new.runs[name])),
    ]


def _of_values(kind: str, old: Mapping, new: Mapping) -> Iterator[Change]:
    """What differs, likes together; a key that one release does not have is the layout's difference."""
    likes: dict[str, list[str]] = {}
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before != after and not (kind == "initialisation" and _ABSENT in (before, after)):
            likes.setdefault(f"{_short(before)} -> {_short(after)}", []).append(name)
    for change, names in likes.items():
        yield Change(kind, f"{_some(names)}: {change}", ", ".join(names))


_ABSENT = "absent"


def _short(value: object) -> str:
    return _some(list(map(str, value))) if isinstance(value, list | tuple) else str(value)


def _some(names: Sequence[str], between: str = ", ") -> str:
    return between.join([*names[:_NAMED], *([f"{len(names) - _NAMED} more"] if len(names) > _NAMED else [])]) or "none"


# ------------------------------------------------------------------------------------ forward


def _of_runs(name: str, old: Run, new: Run) -> Iterator[Change]:
    """One line a circumstance, with the outputs, losses and gradients that changed, and the first module that did."""
    if old.error or new.error:
        if _kind(old.error) != _kind(new.error):
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


def _changes(old: Run, new: Run) -> bool:
    """Something that was answered before is answered otherwise, or no longer."""
    if old.error or new.error:
        return not old.error
    lost = (old.answers.keys() - new.answers.keys()) or (old.gradients.keys() ^ new.gradients.keys())
    return bool(lost or _moved(old.answers, new.answers) or _moved(old.gradients, new.gradients, _usual(old.gradients)))


def _kind(error: str) -> str:
    """The error's type: releases word the same one differently."""
    return error.partition(":")[0]


def _ran(run: Run) -> str:
    return f"stops with {run.error}" if run.error else "runs"


def _moved(old: Mapping[str, Tensor], new: Mapping[str, Tensor], least: float = 0.0) -> dict[str, float]:
    """What both have and differ in by more than rounding, the farthest first; sizes below ``least`` count as that."""
    sizes = {key: relative_error(new[key], value, least) for key, value in old.items() if key in new}
    return dict(sorted(((key, size) for key, size in sizes.items() if size > ROUNDING), key=lambda item: -item[1]))


def _usual(gradients: Mapping[str, Tensor]) -> float:
    """The median size of a gradient: some, such as attention's key.bias, are nothing but rounding."""
    sizes = sorted(float(value.abs().max()) for value in gradients.values())
    return sizes[len(sizes) // 2] if sizes else 0.0


def _first_module(old: Run, new: Run) -> str:
    """The first whose output differs, and the one before it, which still agrees: what changed lies between."""
    agreed = ""
    for before, after in zip_longest(old.modules, new.modules):
        if before is None or after is None or before[0] != after[0]:
            return f"; first, {after[0] if after else 'nothing'} is called where {before[0] if before else 'nothing'} was"
        if relative_error(after[1], before[1]) > ROUNDING:
            return f"; first module {after[0]}{agreed}"
        agreed = f", after {before[0]}"
    return ""


def _judgement(old: Run, new: Run) -> str:
    """Which of the two does as the original, where it has that use."""
    agree = [_agrees(old), _agrees(new)]
    if agree == [False, True]:
        return "; now as the original"
    if agree == [True, False]:
        return "; no longer as the original"
    return "; neither as the original" if agree == [False, False] else ""


def _agrees(run: Run) -> bool | None:
    """None where the original has no such use; what stops lies infinitely far from it."""
    return None if run.from_original is None else run.from_original <= ROUNDING


# ------------------------------------------------------------------------------------ verdict


@dataclass(frozen=True)
class Advice:
    """What a user should do; ``reasons`` say why not simply upgrade."""

    advice: str  # SAFE, LOOK, RECONVERT or STAY
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        because = f" because {'; '.join(self.reasons)}" if self.reasons else ""
        return "\n".join([f"verdict: {self.advice}{because}", *(f"  {note}" for note in self.notes)])


SAFE, LOOK, RECONVERT, STAY = "safe to upgrade", "look before you upgrade", "reconvert", "do not upgrade"


def verdict(old: Observation, new: Observation) -> Advice:
    """The gravest of what was found.

    Stay where a converted folder would load or compute otherwise than the original; reconvert where what OLD itself
    saved no longer loads right; look where something changed of which the original does not say what is right.
    """
    staying = [f"a converted folder no longer loads right ({new.loaded[OURS]})"] if new.loaded[OURS] != "right" == old.loaded[OURS] else []
    pairs = {name: (run, new.runs[name]) for name, run in old.runs.items() if name in new.runs}
    worse = [
        name
        for name, (before, after) in pairs.items()
        if not before.error and (after.error or (_agrees(before) and _agrees(after) is False))
    ]
    if worse:
        staying.append(f"it no longer computes what the original does ({_some(worse, '; ')})")
    better = [name for name, (before, after) in pairs.items() if _agrees(before) is False and _agrees(after)]
    notes = (f"now as the original: {_some(better, '; ')}",) if better else ()
    if staying:
        return Advice(STAY, tuple(staying), notes)
    saved = _form_saved(old)
    if saved and new.loaded[saved] != "right":
        lost = f"what {old.versions['transformers']} itself saves ({saved}) does not load right in {new.versions['transformers']} ({new.loaded[saved]})"
        return Advice(RECONVERT, (lost,), ("or flava-port repair --converted_path OUT, before or after", *notes))
    looking = [f"it can no longer save a model ({new.saved['error']})"] if "error" in new.saved and "error" not in old.saved else []
    others = [name for name, (before, after) in pairs.items() if name not in better and _changes(before, after)]
    if others:
        looking.append(f"there is no original to judge what changed in: {_some(others, '; ')}")
    return Advice(LOOK, tuple(looking), notes) if looking else Advice(SAFE, (), notes)


def _form_saved(observation: Observation) -> str | None:
    """Which form of folder save_pretrained makes of the heads' biases."""
    left_out = set(map(str, observation.saved.get("left out", ())))
    says_tied = observation.saved.get("config says that they are tied")
    keys = [key for pair in TIED for key in pair]
    return next(
        (
            name
            for name, form in FORMS.items()
            if form.says_tied == says_tied and [*map(form.left_out, keys)] == [key in left_out for key in keys]
        ),
        None,
    )


def first_lines(lines: list[str]) -> list[str]:
    """As many as a person reads."""
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]


def drift_report(old: Observation, new: Observation) -> tuple[str, int]:
    """The differences by kind, and the verdict; exit status 1 unless it is safe to upgrade."""
    found = changes(old, new)
    lines = [f"from  {old}", f"to    {new}"]
    for kind in KINDS:
        of_kind = [difference.text for difference in found if difference.kind == kind]
        lines.append(f"{kind:<15} {count_of(len(of_kind), 'difference')}" if of_kind else f"{kind:<15} the same")
        lines += [f"  {text}" for text in first_lines(of_kind)]
    settled = verdict(old, new)
    return "\n".join([*lines, "", str(settled)]), 0 if settled.advice == SAFE else 1
