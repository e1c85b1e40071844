"""An observation of an environment: what its transformers and torch do with FLAVA, in a file.

The file is in the safetensors format. Its tensors are the outputs of every circumstance in float64, the gradients, and
a sketch of what each module gave. Its metadata are the schema, initialisation, save format and loading.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FlavaPortError, InvalidInput
from ..files.staging import staged_files
from ..target.keys import TIED
from ..text import shown
from .schema import Schema

FORMAT = 3


class Unobservable(FlavaPortError):
    """An environment cannot be made, or FLAVA does not run in it."""

    exit_status = 2


@dataclass(frozen=True)
class Run:
    """What came of one circumstance, or why nothing did."""

    answers: Mapping[str, Tensor]  # by output
    gradients: Mapping[str, Tensor]  # by parameter
    modules: tuple[tuple[str, Tensor], ...]  # in the order of their calls: the module and a sketch of its output
    error: str = ""
    from_original: float | None = None  # the greatest relative error against the original; None where that has no such use


@dataclass(frozen=True)
class Observation:
    """What one environment does."""

    versions: Mapping[str, str]  # by package
    schema: Schema
    initial: Mapping[str, str]  # by key: how a new model's parameter is initialised
    saved: Mapping[str, Any]  # what save_pretrained writes
    loaded: Mapping[str, str]  # by form of folder: "right", or what is wrong after from_pretrained
    runs: Mapping[str, Run]  # by circumstance

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if name != "python")


@dataclass(frozen=True)
class Form:
    """A form in which releases have saved the heads' biases: the keys that are left out, and whether the config says that they are tied."""

    left_out: frozenset[str] = frozenset()
    says_tied: bool = True


_BIASES, _DECODER_BIASES = (frozenset(keys) for keys in zip(*TIED))
OURS = "both keys of each head's bias"
FORMS = {
    OURS: Form(),
    "bias alone": Form(_DECODER_BIASES),
    "bias alone, the config says nothing of ties": Form(_DECODER_BIASES, says_tied=False),
    "decoder.bias alone": Form(_BIASES),
    "decoder.bias alone, the config says nothing of ties": Form(_BIASES, says_tied=False),
    "both keys, the config says nothing of ties": Form(says_tied=False),
}


def write(observation: Observation, path: Path) -> None:
    """Writes the observation's file, whole or not at all.

    Raises:
        InvalidInput: ``path`` is a folder.
    """
    tensors: dict[str, Tensor] = {}
    runs: dict[str, dict[str, Any]] = {}
    for name, run in observation.runs.items():
        tensors |= {f"{name}|answer|{key}": value.contiguous().clone() for key, value in run.answers.items()}
        tensors |= {f"{name}|gradient|{key}": value.contiguous().clone() for key, value in run.gradients.items()}
        if run.modules:
            tensors[f"{name}|modules"] = torch.stack([sketch for _, sketch in run.modules])
        runs[name] = {"error": run.error, "from_original": run.from_original, "modules": [module for module, _ in run.modules]}
    about = {name: getattr(observation, name) for name in _ABOUT}
    about |= {"format": FORMAT, "schema": asdict(observation.schema), "runs": runs}
    with staged_files([path]) as [partial]:
        save_file(tensors, partial, {"observation": json.dumps(about)})


def read(path: Path) -> Observation:
    """The observation in a file.

    Raises:
        InvalidInput: it cannot be read, holds no observation, or was written by another version of flava_port.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["observation"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if about["format"] != FORMAT:
            raise InvalidInput(f"{path}: another version of flava_port wrote this observation; observe again")
        schema = _read_schema(about["schema"])
        versions, initial, saved, loaded = (_like({str: kind}, about[name]) for name, kind in _ABOUT.items())
        runs = {name: _read_run(name, described, tensors) for name, described in _like({str: dict}, about["runs"]).items()}
        if missing := {"transformers", "torch", *FORMS} - {*versions, *loaded}:
            raise KeyError(*missing)
        return Observation(versions, schema, initial, saved, loaded, runs)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise InvalidInput(f"{path}: no observation ({type(error).__name__}: {shown(error)})") from None


# What a part of a file must be, as `_like` takes it: a type, a list of one, or a dict from one to one.
_ABOUT = {"versions": str, "initial": str, "saved": str | bool | list, "loaded": str}
_SCHEMA = {
    "shapes": {str: [int]}, "switched": [str], "dtypes": {str: str}, "buffers": [str], "ties": [str],
    "epsilons": {str: str}, "defaults": {str: object},
}  # fmt: skip


def _like(kind: Any, value: Any) -> Any:
    """The value; a TypeError where it is not of that kind."""
    if isinstance(kind, dict):
        [(of_key, of_item)] = kind.items()
        for key, item in _like(dict, value).items():
            _like(of_key, key)
            _like(of_item, item)
    elif isinstance(kind, list):
        for item in _like(list, value):
            _like(kind[0], item)
    elif not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} where a {getattr(kind, '__name__', kind)} belongs")
    return value


def _read_schema(described: Mapping[str, Any]) -> Schema:
    parts = {field.name: _like(_SCHEMA[field.name], described[field.name]) for field in fields(Schema)}
    shapes = {key: tuple(shape) for key, shape in parts["shapes"].items()}
    return Schema(**{name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()} | {"shapes": shapes})


def _read_run(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Run:
    def of(what: str) -> dict[str, Tensor]:
        start = f"{name}|{what}|"
        return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

    modules = tuple(zip(_like([str], described["modules"]), tensors.get(f"{name}|modules", ()), strict=True))
    distance = _like(float | None, described["from_original"])
    return Run(of("answer"), of("gradient"), modules, _like(str, described["error"]), distance)
