"""An observation of an environment: what its transformers and torch do with FLAVA, in a file.

The file is in the safetensors format. Its tensors are sketches of the outputs of every circumstance, of the gradients,
and of what each module gave. Its metadata are all that is no tensor: schema, interface, configs, saving, loading.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
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

FORMAT = 4


class Unobservable(FlavaPortError):
    """An environment cannot be made, or FLAVA does not run in it."""

    exit_status = 2


@dataclass(frozen=True)
class Run:
    """What came of one circumstance, or why nothing did."""

    answers: Mapping[str, Tensor]  # by output: a sketch
    gradients: Mapping[str, Tensor]  # by parameter: a sketch
    modules: tuple[tuple[str, Tensor], ...]  # in the order of their calls: the module and a sketch of its output
    error: str = ""
    from_original: float | None = None  # the greatest relative error against the original; None where that has no such use
    forms: Mapping[str, str] = field(default_factory=dict)  # by output: dtype, shape, how many values are not finite
    kind: str = "forward"  # under which a change of it is reported
    noise: float = 0.0  # of a lower precision than float64: how far rounding takes it from the exact result


@dataclass(frozen=True)
class Observation:
    """What one environment does."""

    versions: Mapping[str, str]  # by package
    schema: Schema
    initial: Mapping[str, str]  # by key: how a new model's parameter is initialised
    saved: Mapping[str, Any]  # what save_pretrained writes
    loaded: Mapping[str, str]  # by form of folder: "right", or what is wrong after from_pretrained
    runs: Mapping[str, Run]  # by circumstance
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by kind: what is no tensor, by name
    machine: str = ""  # the processor and the build of torch: equal ones round alike

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
    tensors, runs = _packed(observation.runs)
    about = asdict(replace(observation, runs={})) | {"format": FORMAT} | runs
    with staged_files([path]) as [partial]:
        save_file(tensors, partial, {"observation": json.dumps(about)})


def _packed(runs: Mapping[str, Run]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of runs, and what else there is to say of them; `_unpacked` makes them runs again."""
    tensors: dict[str, Tensor] = {}
    names: list[tuple[str, ...]] = []  # many circumstances have the same
    told: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        rows = {"answers": tuple(run.answers.items()), "gradients": tuple(run.gradients.items()), "modules": run.modules}
        for what, named in rows.items():
            if named:
                tensors[f"{name}|{what}"] = torch.stack([value for _, value in named])
        of = {what: _numbered(tuple(row for row, _ in named), names) for what, named in rows.items()}
        told[name] = {**asdict(replace(run, answers={}, gradients={}, modules=())), **of}
    return tensors, {"runs": told, "names": names}


def _unpacked(tensors: Mapping[str, Tensor], about: dict[str, Any]) -> dict[str, Run]:
    names = _of_type(tuple[tuple[str, ...], ...], about.pop("names"))
    return {name: _read_run(name, told, tensors, names) for name, told in _of_type(dict, about.pop("runs")).items()}


def write_runs(runs: Mapping[str, Run], path: Path) -> None:
    """Writes runs to a file of their own, as one process gives them to another."""
    tensors, about = _packed(runs)
    save_file(tensors, path, {"runs": json.dumps(about)})


def read_runs(path: Path) -> dict[str, Run]:
    """The runs in a file that `write_runs` wrote."""
    with safe_open(path, "pt") as file:
        return _unpacked({key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["runs"]))


def _numbered(of: tuple[str, ...], names: list[tuple[str, ...]]) -> int:
    """Where these names stand in the list, to which they are added if it lacks them."""
    if of not in names:
        names.append(of)
    return names.index(of)


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
        runs = _unpacked(tensors, about)
        observation = replace(_of_type(Observation, {**about, "runs": {}}), runs=runs)
        if missing := {"transformers", "torch", *FORMS} - {*observation.versions, *observation.loaded}:
            raise KeyError(*missing)
        return observation
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
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


def _read_run(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor], names: tuple[tuple[str, ...], ...]) -> Run:
    def of(what: str) -> list[tuple[str, Tensor]]:
        return list(zip(names[_of_type(int, described[what])], tensors.get(f"{name}|{what}", ()), strict=True))

    read_elsewhere = ("answers", "gradients", "modules")
    told = {key: _of_type(kind, described[key]) for key, kind in get_type_hints(Run).items() if key not in read_elsewhere}
    return Run(dict(of("answers")), dict(of("gradients")), tuple(of("modules")), **told)
