"""The model as a reader sees it: panels of modules from pixels and words to losses, each with its errors against their tolerances."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log10

from ..proof.certificate import Certificate, Measured, Verdict
from ..target.keys import HEADS
from .names import findings_about_keys, module_of

# Levels of a cell: how far its largest error lies below or above its tolerance.
LEVELS = {
    "exact": "no error",
    "below": "under a hundredth of the tolerance",
    "near": "under the tolerance",
    "over": "over the tolerance",
    "far": "over a thousand times the tolerance",
    "equal": "values equal; its computation was not compared by itself",
    "wrong": "values differ",
    "unknown": "not compared",
}


@dataclass(frozen=True)
class Shown:
    """Something measured, and the claim that measured it."""

    claim: str
    measured: Measured

    @property
    def power(self) -> float:
        """The power of ten by which the error is larger than its tolerance; minus infinity for no error."""
        return power_of(self.measured.error, self.measured.tolerance)


def power_of(error: float, tolerance: float) -> float:
    """log10 of their ratio; infinity for an error that is no number."""
    if not isfinite(error) or (error and not tolerance):
        return inf
    return log10(error / tolerance) if error else -inf


def level_of(power: float) -> str:
    """One of `LEVELS` for a power of ten."""
    return "exact" if power == -inf else "below" if power <= -2 else "near" if power <= 0 else "over" if power <= 3 else "far"


# A fault anywhere changes gradients before and behind it, so that they do not show where it is.
SPREADS = "gradients"


@dataclass
class Cell:
    """A module or an output of the model. Where a proof differs, only errors that show where the fault lies colour it."""

    path: str
    label: str
    refuted: bool = False
    measured: list[Shown] = field(default_factory=list)
    state: str = "unknown"  # of its values, where it has some: equal, wrong, unknown
    diverges_first: bool = False

    @property
    def level(self) -> str:
        powers = [each.power for each in self.measured if not self.refuted or self.shows_fault(each)]
        return level_of(max(powers)) if powers else self.state

    def is_own(self, shown: Shown) -> bool:
        """Whether it is the error of what this module makes of the original's inputs, to which no other's fault spreads."""
        return shown.measured.what.endswith(self.path) and shown.claim != SPREADS

    def shows_fault(self, shown: Shown) -> bool:
        """Whether it is its own error, or any but a gradient's where that was not measured."""
        return self.is_own(shown) if any(map(self.is_own, self.measured)) else shown.claim != SPREADS

    @property
    def said(self) -> str:
        """What there is to say of it in words."""
        said = [LEVELS[self.level]]
        said += [LEVELS["wrong"]] if self.state == "wrong" != self.level else []
        said += ["the first to diverge"] if self.diverges_first else []
        return f"{self.label}: {'; '.join(said)}"


@dataclass(frozen=True)
class Line:
    """A line of a panel: its label, and its cells; those of a grid stand below each other, in the panel's columns."""

    label: str
    cells: Sequence[Cell | None]
    in_grid: bool = False


@dataclass(frozen=True)
class Panel:
    """A part of the model, with what goes in and what comes out."""

    title: str
    takes: str
    gives: str
    columns: Sequence[str]  # of its grid: layers, or blocks
    lines: Sequence[Line]


_PANELS = {
    "flava.image_model": ("Image encoder", "pixels", "image states"),
    "flava.text_model": ("Text encoder", "words", "text states"),
    "flava.multimodal_model": ("Multimodal encoder", "image and text states", "joint states"),
    "heads": ("Projections, heads and losses", "states", "logits and losses"),
    "image_codebook": ("Image codebook", "pixels", "visual tokens, the labels of masked patches"),
}
_OUTPUT = "output"
# Where a module stands in a grid: its column and its part of a layer, or of a block of the codebook.
_LAYER = re.compile(r"\.encoder\.layer\.(?P<column>\d+)(?:\.(?P<part>.+))?\Z")
_BLOCK = re.compile(r"\Aimage_codebook\.blocks\.(?P<column>group_\d+\.group\.block_\d+)(?:\.(?P<part>.+))?\Z")
# Parts in the order in which they compute, and what their lines are called.
_PARTS = {
    "layernorm_before": "layer norm before", "attention.attention.query": "query", "attention.attention.key": "key",
    "attention.attention.value": "value", "attention.output.dense": "attention output", "layernorm_after": "layer norm after",
    "intermediate.dense": "feed forward, in", "output.dense": "feed forward, out", _OUTPUT: "as a whole",
    "id_path": "identity path", **{f"res_path.path.conv_{n}": f"convolution {n}" for n in range(1, 5)},
}  # fmt: skip


def panels(certificate: Certificate) -> list[Panel]:
    """The parts of the model that the certificate knows keys of, with every measured error where it belongs."""
    cells = _cells(certificate)
    by_panel: dict[str, list[Cell]] = {name: [] for name in _PANELS}
    for path, cell in cells.items():
        if path:
            by_panel[next((name for name in _PANELS if path.startswith(f"{name}.")), "heads")].append(cell)
    return [_panel(name, inside) for name, inside in by_panel.items() if inside]


def unplaced(certificate: Certificate) -> list[Shown]:
    """Measured errors that belong to no part of the model."""
    return _cells(certificate)[""].measured


def _cells(certificate: Certificate) -> dict[str, Cell]:
    """Every module that has keys and every output that was measured, by its path; under "" what belongs to none."""
    wrong = {finding.key for finding in findings_about_keys(certificate)}
    states: dict[str, set[str]] = defaultdict(set)
    for key in [*(key.converted for key in certificate.keys if key.converted), *wrong]:
        states[module_of(key)].add("wrong" if key in wrong else "equal" if key in certificate.digests else "unknown")
    refuted = certificate.verdict is Verdict.DIFFERS
    cells = {path: Cell(path, _label(path), refuted) for path in ("", *states)}
    for path, found in states.items():
        cells[path].state = next(state for state in ("wrong", "unknown", "equal") if state in found)
    for claim in certificate.claims:
        for measured in claim.measured:
            path = _place(measured, cells)
            cells.setdefault(path, Cell(path, _label(path), refuted)).measured.append(Shown(claim.name, measured))
    if (first := first_to_diverge(certificate)) in cells:
        cells[first].diverges_first = True
    return cells


def first_to_diverge(certificate: Certificate) -> str:
    """The first module whose computation differs, by its converted name; empty where none does."""
    named = (finding for claim in certificate.claims if claim.measured for finding in claim.findings if finding.source)
    return next((finding.key for finding in named), "")


_ENCODING = re.compile(r"(image|text|multimodal)(?:_masked)? (?:hidden state (\d+)|(last hidden state|pooled))")


def _place(measured: Measured, cells: Mapping[str, Cell]) -> str:
    """The path of what was measured: a module, or a block of several, by its name; or an output; empty for what is neither."""
    for name in re.findall(r"[\w.]*\w", measured.what):
        while name and name not in ("flava", "image_codebook"):
            if name in cells or any(path.startswith(f"{name}.") for path in cells):
                return name
            name = name.rpartition(".")[0]
    if state := _ENCODING.search(measured.what):
        encoder, number, end = f"flava.{state[1]}_model", state[2], state[3]
        if number is None:
            return f"{encoder}.layernorm" if end.startswith("last") else f"{encoder}.pooler.dense"
        return f"{encoder}.encoder.layer.{int(number) - 1}" if int(number) else f"{encoder}.embeddings"
    if output := re.search(r"(\w+?)(_logits\w*| loss)\Z", measured.what):
        return f"{output[1]}{output[2].replace('_logits', ' logits').rstrip()}"
    return "image_codebook.output" if measured.what.startswith("codebook") else ""


def _label(path: str) -> str:
    if place := _LAYER.search(path) or _BLOCK.search(path):
        column = place["column"] if place["column"].isdigit() else _words(place["column"].replace(".group.", ", "))
        return f"{'layer ' * place['column'].isdigit()}{column}, {_PARTS.get(place['part'] or _OUTPUT, place['part'])}"
    short = re.sub(r"^(flava\.)?(image_model|text_model|multimodal_model|image_codebook)\.", "", path).removeprefix("flava.")
    return _words(re.sub(r"^(embeddings|\w+_head|blocks)\.|\.(dense|projection)\Z", "", short))


_IN_WORDS = {"_": " ", " to mm ": " to multimodal ", "cls token": "class token", "LayerNorm": "layer norm", "layernorm": "layer norm",
             ".": ", ", "conv": "convolution"}  # fmt: skip


def _words(name: str) -> str:
    for written, read in _IN_WORDS.items():
        name = name.replace(written, read)
    return name


def _panel(name: str, cells: Sequence[Cell]) -> Panel:
    if name == "heads":
        return Panel(*_PANELS[name], (), _lines_of_heads(cells))
    grid: dict[str, dict[str, Cell]] = {part: {} for part in _PARTS}
    before: list[Cell] = []
    after: list[Cell] = []
    for cell in cells:
        if place := _LAYER.search(cell.path) or _BLOCK.search(cell.path):
            grid.setdefault(place["part"] or _OUTPUT, {})[place["column"]] = cell
        else:
            comes_first = cell.path.startswith((f"{name}.embeddings", f"{name}.cls_token", f"{name}.blocks.input"))
            (before if comes_first else after).append(cell)
    columns = sorted({column for row in grid.values() for column in row}, key=lambda column: (len(column), column))
    lines = [Line("in", before)] if before else []
    lines += [Line(_PARTS.get(part, part), [row.get(column) for column in columns], in_grid=True) for part, row in grid.items() if row]
    lines += [Line("out", after)] if after else []
    return Panel(*_PANELS[name], [re.sub(r"\D+", ".", column).strip(".") for column in columns], lines)


def _lines_of_heads(cells: Sequence[Cell]) -> list[Line]:
    """A line for the projections, one for each head up to its loss, and one for the losses of no head."""
    heads = [head.removesuffix("_head") for head in (*HEADS, "itm_head")]
    lines: dict[str, list[Cell]] = {name: [] for name in ("projections", *heads, "contrastive", "total")}
    for cell in cells:
        name = re.sub(r"_head\b.*| .*", "", cell.path)
        name = "contrastive" if "contrastive" in name or cell.path == "flava.logit_scale" else name
        lines.setdefault(name if name in lines else "projections", []).append(cell)
    return [Line(name.replace("_", " "), inside) for name, inside in lines.items() if inside]
