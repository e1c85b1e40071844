"""What the installed transformers saves and loads of the small model: files, bits, dtypes, and each class from every folder."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..files.safetensors_format import read_safetensors
from ..target.keys import POSITION_IDS, TIED, TIED_KEYS
from .facts import Facts, fields_of, tried
from .observation import FORMS, Form
from .runs import said
from .small_model import SMALL_MODEL, small_weights, write_folder

if TYPE_CHECKING:
    from torch import nn

# The classes that load folders, and where each one's weights stand in a whole model.
CLASSES = {
    "FlavaForPreTraining": "",
    "FlavaModel": "flava.",
    "FlavaImageModel": "flava.image_model.",
    "FlavaTextModel": "flava.text_model.",
    "FlavaMultimodalModel": "flava.multimodal_model.",
    "FlavaImageCodebook": "image_codebook.",
    "AutoModel": "flava.",
    "AutoModelForPreTraining": "",
}


def observe_saved(scratch: Path) -> dict[str, Any]:
    """What save_pretrained writes of a folder of ours that was loaded: its files, and the keys that it leaves out or renames."""
    import transformers

    write_folder(scratch / "ours", small_weights())
    try:
        model = transformers.FlavaForPreTraining.from_pretrained(scratch / "ours")
        model.save_pretrained(scratch / "saved")
    except Exception as error:
        return {"error": said(error)}
    keys, own = {*_values_in(scratch / "saved")}, set(model.state_dict())
    return {
        "files": sorted(path.name for path in (scratch / "saved").iterdir() if "model" in path.name),
        "left out": sorted(key for key in own - keys if key in TIED_KEYS),
        "under other names": sorted(keys - own),
        "config says that they are tied": "tie_word_embeddings" in json.loads((scratch / "saved" / "config.json").read_bytes()),
    }


def observe_saved_values(scratch: Path) -> Facts:
    """The bits that save_pretrained writes, of a model as it is, in training and in half precision; its config and metadata."""
    found: Facts = {}
    for name, change in (("", lambda m: m), (" in training", lambda m: m.train()), (" in half precision", lambda m: m.half())):
        folder = scratch / f"saved{name.replace(' ', '-')}"

        model = tried(_save_again, scratch / "ours", folder, change)
        if isinstance(model, str):
            found[f"saved{name}"] = model
            continue
        values, own = _values_in(folder), model.state_dict()
        other = sorted(key for key, value in values.items() if key in own and not torch.equal(value, own[key]))
        found[f"bits saved{name}"] = f"{len(other)} tensors with other values, first {other[0]}" if other else "the model's"
        found[f"dtypes saved{name}"] = _counted(str(value.dtype) for value in values.values())
        found |= fields_of(json.loads((folder / "config.json").read_bytes()), f"config saved{name}")
        if (file := folder / "model.safetensors").exists():
            with safe_open(file, "pt") as opened:
                found[f"metadata saved{name}"] = opened.metadata()
    return found


def _save_again(folder: Path, to: Path, change: Callable[[Any], Any]) -> Any:
    """Loads a whole folder and saves the model once it is changed; returns the model."""
    model: Any = change(_for_pretraining().from_pretrained(folder))
    model.save_pretrained(to)
    return model


def _save_part(whole: Any, part: str, to: Path) -> None:
    (whole.get_submodule(part) if part else whole).save_pretrained(to)


def _values_in(folder: Path) -> dict[str, Tensor]:
    if (file := folder / "model.safetensors").exists():
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key) for key in read_safetensors(file)}
    found: dict[str, Tensor] = torch.load(folder / "pytorch_model.bin", weights_only=True)
    return found


def _counted(items: Any) -> str:
    return ", ".join(f"{count} {item}" for item, count in sorted(Counter(items).items()))


def observe_loaded(scratch: Path) -> dict[str, str]:
    """What from_pretrained makes of each form in which releases have saved the heads' biases."""
    return {name: _what_loads(scratch / str(number), form) for number, (name, form) in enumerate(FORMS.items())}


def _what_loads(folder: Path, form: Form) -> str:
    """``right`` if from_pretrained gives every key the file's value; else the first key that differs, and what it has instead."""
    import transformers

    expected = small_weights()
    write_folder(folder, {key: value for key, value in expected.items() if key not in form.left_out}, says_tied=form.says_tied)
    try:
        return how_loaded(transformers.FlavaForPreTraining.from_pretrained(folder).state_dict(), expected)
    except Exception as error:
        return said(error)


def how_loaded(loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """``right`` if every key has its value; else how many have not, the first of them, and what it has instead."""
    wrong = [
        key for key, value in expected.items() if key in loaded and (loaded[key].is_meta or not torch.equal(loaded[key].float(), value))
    ]
    absent = [key for key in expected if key not in loaded]
    if absent:
        return f"{len(absent)} keys are not in the model, {absent[0]} first"
    return f"{len(wrong)} wrong: {wrong[0]} {_instead(loaded[wrong[0]])}" if wrong else "right"


def _instead(value: Tensor) -> str:
    return "is left without a value" if value.is_meta else "is zero" if not bool(value.any()) else "has other values"


def observe_classes(scratch: Path) -> Facts:
    """Every class from a whole folder and from its own: values, missing keys, dtype, mode, what requires a gradient, what is tied."""
    import transformers

    found: Facts = {}
    whole = tried(_for_pretraining().from_pretrained, scratch / "ours")
    for name, start in CLASSES.items():
        expected = {key.removeprefix(start): value for key, value in small_weights().items() if key.startswith(start)}
        if not start.startswith("image_codebook") and start:
            expected = {key: value for key, value in expected.items() if not key.startswith("image_codebook")}
        found |= _of_class(f"{name} from a whole folder", getattr(transformers, name, None), scratch / "ours", expected)
        part = scratch / f"part-{name}"

        stopped = whole if isinstance(whole, str) else tried(_save_part, whole, start.removesuffix("."), part)
        if stopped is not None:
            found[f"{name} from its own folder"] = stopped
        else:
            found |= _of_class(f"{name} from its own folder", getattr(transformers, name, None), part, expected)
    return found | dict(_dtypes(scratch)) | dict(_of_unusual_folders(scratch))


def _of_unusual_folders(scratch: Path) -> Iterator[tuple[str, Any]]:
    """What comes of folders that lack a key, have another, a wrong shape or an old name; of shards, of a pickle, of options."""
    weights = small_weights()
    norm = "mlm_head.transform.LayerNorm"
    changed = {
        "that lacks a head's weight": _without(weights, "itm_head.pooler.dense.weight"),
        "that lacks an embedding": _without(weights, "flava.image_model.embeddings.cls_token"),
        "with a key more": weights | {"classifier.weight": weights["itm_head.seq_relationship.weight"]},
        "with position_ids": weights | {POSITION_IDS: torch.arange(SMALL_MODEL.text_config.max_position_embeddings)[None]},
        "with a wrong shape": weights | {"itm_head.pooler.dense.bias": torch.ones(3)},
        "with old names of a norm": _without(weights, f"{norm}.weight", f"{norm}.bias")
        | {f"{norm}.gamma": weights[f"{norm}.weight"], f"{norm}.beta": weights[f"{norm}.bias"]},
    }
    for number, (name, values) in enumerate(changed.items()):
        folder = scratch / f"unusual-{number}"
        write_folder(folder, values)
        yield from _of_class(f"a folder {name}", _for_pretraining(), folder, weights).items()
    pickled = scratch / "pickled"
    write_folder(pickled, {})
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    yield "a folder with a pickle", tried(_values_from, pickled, weights)
    sharded = scratch / "sharded"
    yield "saved in shards", tried(_save_otherwise, scratch / "ours", sharded, max_shard_size="100KB")
    yield "saved as a pickle", tried(_save_otherwise, scratch / "ours", scratch / "as-a-pickle", safe_serialization=False)
    yield "a folder of shards", tried(_values_from, sharded, weights)
    for options in ({"attn_implementation": "sdpa"}, {"attn_implementation": "eager"}, {"return_loss": False, "projection_dim": 24}):
        yield f"loaded with {options}", tried(_values_from, scratch / "ours", weights, **options)


def _without(weights: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key not in keys}


def _for_pretraining() -> Any:
    import transformers

    return transformers.FlavaForPreTraining


def _values_from(folder: Path, expected: Mapping[str, Tensor], **options: Any) -> str:
    model = _for_pretraining().from_pretrained(folder, **options)
    return f"{how_loaded(model.state_dict(), expected)}; return_loss {model.config.return_loss}"


def _save_otherwise(folder: Path, to: Path, **options: Any) -> list[str]:
    _for_pretraining().from_pretrained(folder).save_pretrained(to, **options)
    return sorted(path.name for path in to.iterdir())


def _of_class(name: str, of: Any, folder: Path, expected: Mapping[str, Tensor]) -> Facts:
    loaded = tried(of.from_pretrained, folder, output_loading_info=True) if of else "there is no such class"
    if isinstance(loaded, str):
        return {name: loaded}
    model, info = loaded
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    state = model.state_dict(keep_vars=True)
    tied = sum(one in state and other in state and state[one] is state[other] for one, other in TIED)
    return {
        f"{name}: class": type(model).__name__,
        f"{name}: values": how_loaded(model.state_dict(), expected),
        f"{name}: dtypes": _counted(str(value.dtype) for value in model.state_dict().values()),
        f"{name}: mode": "training" if model.training else "evaluation",
        f"{name}: without a gradient": f"{len(frozen)}, first {frozen[0]}" if frozen else "0",
        f"{name}: tied": tied,
        f"{name}: config": type(model.config).__name__,
        **{f"{name}: {what}": _first_of(info.get(what, ())) for what in ("missing_keys", "unexpected_keys", "mismatched_keys")},
    }


def _first_of(keys: Any) -> str:
    listed = sorted(map(str, keys))
    return f"{len(listed)}, first {listed[0]}" if listed else "0"


def _dtypes(scratch: Path) -> Iterator[tuple[str, Any]]:
    """The dtypes that from_pretrained chooses for an encoder, by those of the file, by what the config says and by what is asked for."""
    import transformers

    weights = small_weights()
    half = {key: value.half() for key, value in weights.items()}
    files = {
        "float32": weights,
        "float16": half,
        "bfloat16": {key: value.bfloat16() for key, value in weights.items()},
        "float32 but for one tensor": weights | {key: half[key] for key in list(half)[:1]},
    }
    asked: dict[str, dict[str, Any]] = {
        "": {},
        ", asked for auto": {"torch_dtype": "auto"},
        ", asked for float16": {"torch_dtype": torch.float16},
    }
    for number, (file, values) in enumerate(files.items()):
        for says in ("float32", "float16", None):
            folder = scratch / f"dtype-{number}-{says}"
            write_folder(folder, values, dtype=says)
            for what, options in asked.items():
                if not what or says == file or says is None:
                    model = tried(transformers.FlavaTextModel.from_pretrained, folder, **options)
                    yield f"dtype of a file in {file}, the config says {says}{what}", model if isinstance(model, str) else _dtype_of(model)


def _dtype_of(model: "nn.Module") -> str:
    return _counted(str(value.dtype) for value in model.parameters())
