"""Observes what a release of transformers and of torch does with FLAVA, on one seeded small model.

python -m flava_port.releases.observe FILE      # or, of any environment's test suite: pytest --observe FILE
"""

import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

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
from .circumstances import SMALL_CODEBOOK, SMALL_MODEL, Circumstance, circumstances
from .observation import FORMS, Form, Observation, Run, write
from .schema import observe_schema


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
            layout = observe_schema().snapshot
            return Observation(versions, layout, observe_initial(), _saved(Path(scratch)), _loaded(Path(scratch)), observe_runs())
    finally:
        torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------- the model


def config() -> dict:
    """The small model's config, in normal form."""
    whole = deepcopy(DEFAULTS)
    for section in ("image_config", "text_config", "multimodal_config"):
        whole[section] |= asdict(getattr(SMALL_MODEL, section))
    whole["image_codebook_config"] |= asdict(SMALL_CODEBOOK)
    return whole | {"hidden_size": 32, "projection_dim": SMALL_MODEL.projection_dim}


def weights() -> dict[str, Tensor]:
    """The small model's weights under transformers' names, both of a tied pair's, in float32."""
    model = {FLAVA.rename(key): load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items() if not FLAVA.trace(key).dropped}
    model.pop(POSITION_IDS)
    codebook = {CODEBOOK_PREFIX + CODEBOOK.rename(key): load(tensor) for key, tensor in seeded_codebook(SMALL_CODEBOOK).items()}
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
        {key: load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items()},
        **{name: {"num_attention_heads": 2} for name in ("image", "text", "multimodal")},
    ).double().eval()  # fmt: skip
    try:
        model = _model_with_weights().double()
        model.requires_grad_(True)
    except Exception as error:
        return {case.name: _stopped(case, error) for case in circumstances()}
    return {case.name: _run(case, model, originals) for case in circumstances()}


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


if __name__ == "__main__":
    write(observe(), Path(sys.argv[1]))
