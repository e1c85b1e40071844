"""An observation of a release: what it did, written to a file and read back.

The file is safetensors: every circumstance's answer in float64, the gradients, a sketch of what each
module gave, and, as its metadata, the schema, initialisation, save format and loading.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InvalidInput
from ..files.staging import staged_files
from ..target.epochs import Schema
from ..target.keys import TIED
from ..text import shown

FORMAT = 2


@dataclass(frozen=True)
class Run:
    """One circumstance: what came of it, or why nothing did; and how far it lies from the original's."""

    answers: Mapping[str, Tensor]  # by output
    gradients: Mapping[str, Tensor]  # by parameter
    modules: tuple[tuple[str, Tensor], ...]  # in the order of their calls, each with a sketch of what it gave
    error: str = ""
    from_original: float | None = None  # relative; None where the original has no such use


@dataclass(frozen=True)
class Observation:
    """One environment's."""

    versions: Mapping[str, str]
    layout: Schema
    initial: Mapping[str, str]  # by key: how a new model's parameter begins
    saved: Mapping[str, object]  # what save_pretrained writes
    loaded: Mapping[str, str]  # by form of a folder: what from_pretrained ends with
    runs: Mapping[str, Run]

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if name != "python")


@dataclass(frozen=True)
class Form:
    """A form in which releases have left the heads' biases: a key of each pair that is left out, and a config that says they are tied."""

    left_out: Callable[[str], bool] = lambda key: False
    says_tied: bool = True


def is_bias(key: str) -> bool:
    return any(key == bias for bias, _ in TIED)


def is_decoder_bias(key: str) -> bool:
    return any(key == bias for _, bias in TIED)


OURS = "both keys of each head's bias"
FORMS = {
    OURS: Form(),
    "bias alone": Form(is_decoder_bias),
    "bias alone, the config says nothing of ties": Form(is_decoder_bias, says_tied=False),
    "decoder.bias alone": Form(is_bias),
    "decoder.bias alone, the config says nothing of ties": Form(is_bias, says_tied=False),
    "both keys, the config says nothing of ties": Form(says_tied=False),
}


# -------------------------------------------------------------------------------------- files


def write(observation: Observation, path: Path) -> None:
    """Writes the file whole, or not at all."""
    tensors: dict[str, Tensor] = {}
    about = {name: getattr(observation, name) for name in ("versions", "initial", "saved", "loaded")}
    about |= {"format": FORMAT, "layout": asdict(observation.layout), "runs": {}}
    for name, run in observation.runs.items():
        tensors |= {f"{name}|answer|{key}": value.contiguous().clone() for key, value in run.answers.items()}
        tensors |= {f"{name}|gradient|{key}": value.contiguous().clone() for key, value in run.gradients.items()}
        if run.modules:
            tensors[f"{name}|modules"] = torch.stack([sketch for _, sketch in run.modules])
        about["runs"][name] = {"error": run.error, "from_original": run.from_original, "modules": [module for module, _ in run.modules]}
    with staged_files([path]) as [partial]:
        save_file(tensors, partial, {"observation": json.dumps(about)})


def read(path: Path) -> Observation:
    """An observation's file.

    Raises:
        InvalidInput: it cannot be read, or is none, or another version of flava_port wrote it.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["observation"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if about["format"] != FORMAT:
            raise InvalidInput(f"{path}: another version of flava_port wrote this observation; observe again")
        layout = Schema(**{field.name: _like(_LAYOUT[field.name], about["layout"][field.name]) for field in fields(Schema)})
        versions, initial, saved, loaded = (_like({str: kind}, about[name]) for name, kind in _ABOUT.items())
        runs = {name: _read_run(name, described, tensors) for name, described in _like({str: dict}, about["runs"]).items()}
        if missing := {"transformers", "torch", *FORMS} - {*versions, *loaded}:
            raise KeyError(*missing)
        return Observation(versions, layout, initial, saved, loaded, runs)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise InvalidInput(f"{path}: no observation ({type(error).__name__}: {shown(error)})") from None


# What the parts of a file are, as `_like` takes it.
_ABOUT = {"versions": str, "initial": str, "saved": str | bool | list, "loaded": str}
_LAYOUT = {"shapes": {str: str}, "dtypes": {str: str}, "buffers": [str], "ties": [str], "epsilons": {str: str}, "defaults": {str: object}}


def _like(kind: object, value):
    """The value, which must be of that kind: a type, ``[type]`` or ``{type: type}``; TypeError where it is not."""
    whole, parts = (
        (dict, [*kind.items()]) if isinstance(kind, dict) else (list, [(object, *kind)]) if isinstance(kind, list) else (kind, [])
    )
    if not isinstance(value, whole):
        raise TypeError(f"{value!r:.40} where a {getattr(whole, '__name__', whole)} belongs")
    for of_key, of_item in parts:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _like(of_key, key)
            _like(of_item, item)
    return value


def _read_run(name: str, described: Mapping, tensors: Mapping[str, Tensor]) -> Run:
    def of(kind: str) -> dict[str, Tensor]:
        start = f"{name}|{kind}|"
        return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

    modules = tuple(zip(_like([str], described["modules"]), tensors.get(f"{name}|modules", ()), strict=True))
    distance = _like(float | None, described["from_original"])
    return Run(of("answer"), of("gradient"), modules, _like(str, described["error"]), distance)
