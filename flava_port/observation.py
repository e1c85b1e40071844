"""What a release of transformers and of torch does with FLAVA, observed on one seeded small model and written to a file.

    python -m flava_port.observation FILE      # or, of any environment's test suite: pytest --observe FILE

The file is safetensors: every circumstance's answer in float64, the gradients, a sketch of what each
module gave, and, as its metadata, the layout, initialisation, save format and loading.
"""

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import circumstances, epochs
from .circumstances import Circumstance
from .config import DEFAULTS, config_json
from .epochs import Snapshot
from .errors import InvalidInput
from .forward import recording, relative_error
from .layout import POSITION_IDS, TIED, TIED_KEYS, quiet
from .original import Flava
from .pickle_names import shown
from .recorder import observe as observe_layout
from .rules import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from .safetensors_file import read_safetensors
from .staging import staged_files
from .synthetic import codebook_state_dict, original_state_dict
from .torch_tensors import MemoryTensor, load
from .writing import write_safetensors

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
    layout: Snapshot
    initial: Mapping[str, str]  # by key: how a new model's parameter begins
    saved: Mapping[str, object]  # what save_pretrained writes
    loaded: Mapping[str, str]  # by form of a folder: what from_pretrained ends with
    runs: Mapping[str, Run]

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if name != "python")


def observe() -> Observation:
    """The installed release's; ten seconds."""
    import transformers

    # Some releases draw and initialise by number of threads; and tiny models run faster on one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
            transformers.utils.logging.disable_progress_bar()
            versions = {
                "transformers": transformers.__version__,
                "torch": torch.__version__.split("+")[0],
                "python": platform.python_version(),
            }
            layout = observe_layout().snapshot
            return Observation(versions, layout, observe_initial(), _saved(Path(scratch)), _loaded(Path(scratch)), observe_runs())
    finally:
        torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------- the model


def config() -> dict:
    """The small model's config, in normal form."""
    whole = deepcopy(DEFAULTS)
    for section in ("image_config", "text_config", "multimodal_config"):
        whole[section] |= asdict(getattr(circumstances.MODEL, section))
    whole["image_codebook_config"] |= asdict(circumstances.CODEBOOK)
    return whole | {"hidden_size": 32, "projection_dim": circumstances.MODEL.projection_dim}


def weights() -> dict[str, Tensor]:
    """The small model's weights under transformers' names, both of a tied pair's, in float32."""
    model = {
        FLAVA.rename(key): load(tensor) for key, tensor in original_state_dict(circumstances.MODEL).items() if not FLAVA.trace(key).dropped
    }
    model.pop(POSITION_IDS)
    codebook = {CODEBOOK_PREFIX + CODEBOOK.rename(key): load(tensor) for key, tensor in codebook_state_dict(circumstances.CODEBOOK).items()}
    return model | codebook


def _new_model() -> nn.Module:
    import transformers

    return transformers.FlavaForPreTraining(transformers.FlavaConfig.from_dict(deepcopy(config()))).eval()


def _model_with_weights() -> nn.Module:
    model = _new_model()
    found = model.load_state_dict(weights(), strict=False)
    missing = [key for key in found.missing_keys if key != POSITION_IDS]
    if missing or found.unexpected_keys:
        amiss = [*(f"missing {key}" for key in missing[:2]), *(f"unexpected {key}" for key in found.unexpected_keys[:2])]
        raise InvalidInput(f"its keys are not those that the rules lead to: {', '.join(amiss)}")
    return model


# ------------------------------------------------------------- initialisation, saving, loading


def observe_initial() -> dict[str, str]:
    """Every parameter of a new model: zero, one, or its deviation to one digit, which chance does not move."""
    torch.manual_seed(0)
    return {key: _beginning(value) for key, value in _new_model().state_dict().items() if key != POSITION_IDS}


def _beginning(value: Tensor) -> str:
    if value.numel() and bool((value == value.flatten()[0]).all()):
        return f"{float(value.flatten()[0]):g} throughout"
    return f"random, {float(value.float().std()):.0e}" if value.numel() >= 500 else "random"


def _saved(scratch: Path) -> dict[str, object]:
    """What save_pretrained makes of a folder of ours once it is loaded: the files, and the keys that it leaves out or writes under other names."""
    import transformers

    write_folder(scratch / "ours", weights())
    try:
        model = transformers.FlavaForPreTraining.from_pretrained(scratch / "ours")
        model.save_pretrained(scratch / "saved")
    except Exception as error:
        return {"error": _said(error)}
    names = sorted(path.name for path in (scratch / "saved").iterdir() if "model" in path.name)
    keys, own = _keys_in(scratch / "saved"), set(model.state_dict())
    said = json.loads((scratch / "saved" / "config.json").read_bytes())
    return {
        "files": names,
        "left out": sorted(key for key in own - keys if key in TIED_KEYS),
        "under other names": sorted(keys - own),
        "config says that they are tied": "tie_word_embeddings" in said,
    }


def _keys_in(folder: Path) -> set[str]:
    """As they stand in the file."""
    if (file := folder / "model.safetensors").exists():
        return set(read_safetensors(file))
    return set(torch.load(folder / "pytorch_model.bin", weights_only=True))


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


def _loaded(scratch: Path) -> dict[str, str]:
    return {name: _what_loads(scratch / str(number), form) for number, (name, form) in enumerate(FORMS.items())}


def _what_loads(folder: Path, form: Form) -> str:
    """``right``, or the first key that does not get the file's value, and what it has instead."""
    import transformers

    expected = weights()
    write_folder(folder, {key: value for key, value in expected.items() if not form.left_out(key)}, says_tied=form.says_tied)
    try:
        loaded = transformers.FlavaForPreTraining.from_pretrained(folder).state_dict()
    except Exception as error:
        return _said(error)
    wrong = [key for key, value in expected.items() if key in loaded and not _is(loaded[key], value)]
    absent = [key for key in expected if key not in loaded]
    if absent:
        return f"{len(absent)} keys are not in the model, {absent[0]} first"
    return f"{len(wrong)} wrong: {wrong[0]} {_instead(loaded[wrong[0]])}" if wrong else "right"


def write_folder(folder: Path, state: Mapping[str, Tensor], *, says_tied: bool = True) -> None:
    """The small model's folder with these weights, as `convert` writes one but for what the config says."""
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {key: MemoryTensor(value) for key, value in state.items()})
    said = config_json(config(), "float32")
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in said.items() if says_tied or name != "tie_word_embeddings"})
    )


def _is(actual: Tensor, expected: Tensor) -> bool:
    return not actual.is_meta and torch.equal(actual, expected)


def _instead(value: Tensor) -> str:
    return "is left without a value" if value.is_meta else "is zero" if not bool(value.any()) else "has other values"


# --------------------------------------------------------------------------------------- runs


def observe_runs() -> dict[str, Run]:
    originals = Flava.from_state_dict(
        {key: load(tensor) for key, tensor in original_state_dict(circumstances.MODEL).items()},
        **{name: {"num_attention_heads": 2} for name in ("image", "text", "multimodal")},
    ).double().eval()  # fmt: skip
    try:
        model = _model_with_weights().double()
        model.requires_grad_(True)
    except Exception as error:
        return {case.name: _stopped(case, error) for case in circumstances.circumstances()}
    return {case.name: _run(case, model, originals) for case in circumstances.circumstances()}


def _run(case: Circumstance, model: nn.Module, originals: Flava) -> Run:
    try:
        with recording(model) as calls:
            answers = case.run(model)
    except Exception as error:
        return _stopped(case, error)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None} if case.has_gradients else {}
    modules = tuple((call.name, _sketch(call.output)) for call in calls)
    from_original = _distance(answers, case.run_original(originals)) if case.judged else None
    return Run(answers, gradients, modules, "", from_original)


def _stopped(case: Circumstance, error: Exception) -> Run:
    return Run({}, {}, (), _said(error), float("inf") if case.judged else None)


_SKETCHED = 4


def _sketch(value: Tensor) -> Tensor:
    """A few seeded projections: equal for equal values, and for hardly any others."""
    flat = value.detach().flatten().double()
    generator = torch.Generator().manual_seed(len(flat))
    return torch.randn(_SKETCHED, len(flat), generator=generator, dtype=torch.float64) @ flat / max(1, len(flat)) ** 0.5


def _distance(answers: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> float:
    return max(relative_error(answers[name], value) if name in answers else float("inf") for name, value in originals.items())


def _said(error: Exception) -> str:
    """The kind of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


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
        layout = Snapshot(**{field.name: _like(_LAYOUT[field.name], about["layout"][field.name]) for field in fields(epochs.Snapshot)})
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


if __name__ == "__main__":
    write(observe(), Path(sys.argv[1]))
