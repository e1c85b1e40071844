"""Observes what the installed transformers and torch do with FLAVA, on one small seeded model.

python -m flava_port.releases.observe FILE      # in the environment of a test suite: pytest --observe FILE
"""

import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..files.safetensors_format import read_safetensors, write_safetensors
from ..files.torch_tensors import MemoryTensor, load
from ..original.flava import Flava
from ..original.seeded import seeded_codebook, seeded_state_dict
from ..proof.forward import relative_error
from ..proof.localise import recording
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from ..target.config import DEFAULTS, config_json
from ..target.installed import quiet
from ..target.keys import POSITION_IDS, TIED_KEYS
from ..target.schema import observe_schema
from .circumstances import SMALL_CODEBOOK, SMALL_MODEL, Circumstance, circumstances
from .observation import FORMS, Form, Observation, Run, write
from .processing import observe_processing

if TYPE_CHECKING:
    from transformers import FlavaForPreTraining


def observe() -> Observation:
    """An observation of the environment in which this runs; takes ten seconds."""
    import transformers

    # On one thread: in some releases random values depend on the number of threads, and tiny models run faster on one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
            transformers.utils.logging.disable_progress_bar()
            versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
            versions["python"] = platform.python_version()
            folder = Path(scratch)
            schema, initial, saved, loaded = observe_schema(), observe_initial(), observe_saved(folder), observe_loaded(folder)
            runs = observe_runs() | observe_processing(folder / "ours", config(), _sketch, _said)
            return Observation(versions, schema, initial, saved, loaded, runs)
    finally:
        torch.set_num_threads(threads)


def config() -> dict[str, Any]:
    """The small model's config, in normal form."""
    whole = deepcopy(DEFAULTS)
    for section in ("image_config", "text_config", "multimodal_config"):
        whole[section] |= asdict(getattr(SMALL_MODEL, section))
    whole["image_codebook_config"] |= asdict(SMALL_CODEBOOK)
    return whole | {"hidden_size": 32, "projection_dim": SMALL_MODEL.projection_dim}


def weights() -> dict[str, Tensor]:
    """The small model's weights in float32 under transformers' keys, tied ones under both of theirs."""
    found = {target: load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items() if (target := FLAVA.rename(key)) is not None}
    del found[POSITION_IDS]
    return found | {f"{CODEBOOK_PREFIX}{CODEBOOK.rename(key)}": load(tensor) for key, tensor in seeded_codebook(SMALL_CODEBOOK).items()}


def _new_model() -> "FlavaForPreTraining":
    import transformers

    return transformers.FlavaForPreTraining(transformers.FlavaConfig.from_dict(deepcopy(config()))).eval()


def _model_with_weights() -> "FlavaForPreTraining":
    model = _new_model()
    found = model.load_state_dict(weights(), strict=False)
    missing = [key for key in found.missing_keys if key != POSITION_IDS]
    if missing or found.unexpected_keys:
        amiss = [*(f"missing {key}" for key in missing[:2]), *(f"unexpected {key}" for key in found.unexpected_keys[:2])]
        raise InvalidInput(f"its keys are not those that the rules lead to: {', '.join(amiss)}")
    return model


def observe_initial() -> dict[str, str]:
    """How each parameter of a new model is initialised: to one value throughout, or at random, with the deviation to one digit."""
    torch.manual_seed(0)
    return {key: _initialised(value) for key, value in _new_model().state_dict().items() if key != POSITION_IDS}


def _initialised(value: Tensor) -> str:
    if value.numel() and bool((value == value.flatten()[0]).all()):
        return f"{float(value.flatten()[0]):g} throughout"
    return f"random, {float(value.float().std()):.0e}" if value.numel() >= 500 else "random"


def observe_saved(scratch: Path) -> dict[str, Any]:
    """What save_pretrained writes of a folder of ours that was loaded: its files, and the keys that it leaves out or renames."""
    import transformers

    write_folder(scratch / "ours", weights())
    try:
        model = transformers.FlavaForPreTraining.from_pretrained(scratch / "ours")
        model.save_pretrained(scratch / "saved")
    except Exception as error:
        return {"error": _said(error)}
    keys, own = _keys_in(scratch / "saved"), set(model.state_dict())
    return {
        "files": sorted(path.name for path in (scratch / "saved").iterdir() if "model" in path.name),
        "left out": sorted(key for key in own - keys if key in TIED_KEYS),
        "under other names": sorted(keys - own),
        "config says that they are tied": "tie_word_embeddings" in json.loads((scratch / "saved" / "config.json").read_bytes()),
    }


def _keys_in(folder: Path) -> set[str]:
    if (file := folder / "model.safetensors").exists():
        return set(read_safetensors(file))
    return set(torch.load(folder / "pytorch_model.bin", weights_only=True))


def observe_loaded(scratch: Path) -> dict[str, str]:
    return {name: _what_loads(scratch / str(number), form) for number, (name, form) in enumerate(FORMS.items())}


def _what_loads(folder: Path, form: Form) -> str:
    """``right`` if from_pretrained gives every key the file's value; else the first key that differs, and what it has instead."""
    import transformers

    expected = weights()
    write_folder(folder, {key: value for key, value in expected.items() if key not in form.left_out}, says_tied=form.says_tied)
    try:
        loaded = transformers.FlavaForPreTraining.from_pretrained(folder).state_dict()
    except Exception as error:
        return _said(error)
    wrong = [key for key, value in expected.items() if key in loaded and (loaded[key].is_meta or not torch.equal(loaded[key], value))]
    absent = [key for key in expected if key not in loaded]
    if absent:
        return f"{len(absent)} keys are not in the model, {absent[0]} first"
    return f"{len(wrong)} wrong: {wrong[0]} {_instead(loaded[wrong[0]])}" if wrong else "right"


def write_folder(folder: Path, state: Mapping[str, Tensor], *, says_tied: bool = True) -> None:
    """Makes a folder of the small model with these weights, as `convert` does, but that the config need not speak of ties."""
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {key: MemoryTensor(value) for key, value in state.items()})
    said = config_json(config(), "float32")
    if not says_tied:
        del said["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(said))


def _instead(value: Tensor) -> str:
    return "is left without a value" if value.is_meta else "is zero" if not bool(value.any()) else "has other values"


def observe_runs() -> dict[str, Run]:
    """Every circumstance, run with the installed transformers in float64, and with the original where that has such a use."""
    original = Flava.from_state_dict(
        {key: load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items()},
        **{name: {"num_attention_heads": 2} for name in ("image", "text", "multimodal")},
    ).double().eval()  # fmt: skip
    try:
        model = _model_with_weights().double()
        model.requires_grad_(True)
    except Exception as error:
        return {case.name: _stopped(case, error) for case in circumstances()}
    return {case.name: _run(case, model, original) for case in circumstances()}


def _run(case: Circumstance, model: "FlavaForPreTraining", original: Flava) -> Run:
    try:
        with recording(model) as calls:
            answers = case.run(model)
    except Exception as error:
        return _stopped(case, error)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None} if case.has_gradients else {}
    modules = tuple((call.name, _sketch(call.output)) for call in calls)
    from_original = _distance(answers, case.run_original(original)) if case.judged else None
    return Run(answers, gradients, modules, "", from_original)


def _stopped(case: Circumstance, error: Exception) -> Run:
    return Run({}, {}, (), _said(error), float("inf") if case.judged else None)


_SKETCHED = 4


def _sketch(value: Tensor) -> Tensor:
    """A few seeded projections of a tensor: equal for equal values, and hardly ever for others."""
    flat = value.detach().flatten().double()
    generator = torch.Generator().manual_seed(len(flat))
    return torch.randn(_SKETCHED, len(flat), generator=generator, dtype=torch.float64) @ flat / max(1, len(flat)) ** 0.5


def _distance(answers: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> float:
    """The greatest relative error of an answer; infinite where one is missing."""
    return max(relative_error(answers[name], value) if name in answers else float("inf") for name, value in originals.items())


def _said(error: Exception) -> str:
    """The type of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


if __name__ == "__main__":
    write(observe(), Path(sys.argv[1]))
