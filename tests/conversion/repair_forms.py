"""Folders as releases of transformers and other programs leave them: each function changes one that was converted."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from flava_port.target.keys import POSITION_IDS, TIED

WEIGHTS = "model.safetensors"

Change = Callable[[Path], None]


def edited(edit: Callable[[dict], object]) -> Change:
    """Weights that ``edit`` has changed in place."""

    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS, {"format": "pt"})

    return change


def without(which: int) -> Change:
    """One key of each head's bias is missing."""
    return edited(lambda state: [state.pop(pair[which]) for pair in TIED])


def zero(which: int) -> Change:
    """One key of each head's bias is zero."""
    return edited(lambda state: state.update({pair[which]: torch.zeros_like(state[pair[which]]) for pair in TIED}))


def with_position_ids(key: str = POSITION_IDS, ids: torch.Tensor | None = None) -> Change:
    return edited(lambda state: state.update({key: torch.arange(20)[None] if ids is None else ids}))


def old_names(state: dict) -> None:
    """gamma and beta, as releases from 5.0.0 to 5.3.0 write LayerNorm's weight and bias."""
    for key in [key for key in state if "LayerNorm" in key]:
        state[key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(key)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def in_two(folder: Path) -> None:
    """Two files of weights, and an index that leaves out every decoder.bias."""
    state = load_file(folder / WEIGHTS)
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: value for key, value in state.items() if names[key] == name}, folder / name, {"format": "pt"})
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"weight_map": {key: name for key, name in names.items() if "decoder.bias" not in key}})
    )
    (folder / WEIGHTS).unlink()


def no_format(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


def loose_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"mim_weight": 1, "tie_word_embeddings": False}
    del config["itm_weight"]
    (folder / "config.json").write_text(json.dumps(config))


def two_values(folder: Path) -> None:
    """One key in two files, with two values."""
    in_two(folder)
    other = next(path for path in folder.glob("model-*") if "flava.logit_scale" not in load_file(path))
    save_file(load_file(other) | {"flava.logit_scale": torch.tensor(9.0)}, other, {"format": "pt"})


def old_and_new_name(folder: Path) -> None:
    """One tensor under gamma and under weight, with two values."""
    key = "flava.text_model.embeddings.LayerNorm."
    edited(lambda state: state.update({f"{key}gamma": state[f"{key}weight"] + 1}))(folder)


def training_state(folder: Path) -> None:
    torch.save({"state_dict": load_file(folder / WEIGHTS), "optimizer": {"lr": 0.1}, "epoch": 3}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def index_that_names(name: str) -> Change:
    def change(folder: Path) -> None:
        in_two(folder)
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"flava.logit_scale": name}}))

    return change


def text_config(**fields: object) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= fields
        (folder / "config.json").write_text(json.dumps(config))

    return change


def piped_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
