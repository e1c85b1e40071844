"""An observation of an environment: what its transformers and torch do with FLAVA, in a file.

The file is in the safetensors format. Its tensors are the outputs of every circumstance in float64, the gradients, and
a sketch of what each module gave. Its metadata are the schema, initialisation, save format and loading.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FlavaPortError, InvalidInput
from ..files.staging import staged_files
from ..target.keys import TIED
from ..target.schema import Schema
from ..text import shown

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
    about = asdict(replace(observation, runs={})) | {"format": FORMAT, "runs": runs}
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
        runs = {name: _read_run(name, described, tensors) for name, described in _of_type(dict, about.pop("runs")).items()}
        observation = replace(_of_type(Observation, {**about, "runs": {}}), runs=runs)
        if missing := {"transformers", "torch", *FORMS} - {*observation.versions, *observation.loaded}:
            raise KeyError(*missing)
        return observation
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise InvalidInput(f"{path}: no observation ({type(error).__name__}: {shown(error)})") from None


def _of_type(wanted: Any, value: Any) -> Any:
    """What was read from JSON as an object of this type, of a dataclass, a mapping or a tuple too; a TypeError where it is another."""
    container, of = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, type) and is_dataclass(wanted):
        return wanted(**{name: _of_type(kind, value[name]) for name, kind in get_type_hints(wanted).items()})
    if container is Mapping:
        return {_of_type(of[0], key): _of_type(of[1], item) for key, item in _of_type(dict, value).items()}
    if container is tuple:
        return tuple(_of_type(of[0], item) for item in _of_type(list, value))
    if wanted is not Any and not isinstance(value, wanted):
        raise TypeError(f"{value!r:.40} where a {wanted} belongs")
    return value


def _read_run(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Run:
    def of(what: str) -> dict[str, Tensor]:
        start = f"{name}|{what}|"
        return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

    modules = tuple(zip(_of_type(tuple[str, ...], described["modules"]), tensors.get(f"{name}|modules", ()), strict=True))
    distance = _of_type(float | None, described["from_original"])
    return Run(of("answer"), of("gradient"), modules, _of_type(str, described["error"]), distance)
