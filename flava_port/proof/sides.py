"""The two models of a proof, each loaded when it is needed: the original, rebuilt, and the converted one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..files.tensors import TensorSource
from ..files.torch_tensors import load
from ..original.codebook import DalleEncoder
from ..original.flava import Flava
from ..original.seeded import seeded
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from ..rules.tables import FLAVA
from ..target.installed import load_model
from ..target.keys import TIED

_NOT_IN_SHAPES = ("num_attention_heads", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Sides:
    """What it takes to load both: the original's state dicts and config, and the converted folder."""

    state: Mapping[str, TensorSource]  # in the original layout, whichever layout the checkpoint has
    codebook_state: Mapping[str, TensorSource] | None
    folder: Path
    config: dict
    made_by: Semantics = ORIGINAL_SEMANTICS

    def original(self, made_by: Semantics = ORIGINAL_SEMANTICS) -> Flava:
        """The reference implementation with the original's weights, in float32, computing as ``made_by`` does."""
        told = {s: {name: self.config[f"{s}_config"][name] for name in _NOT_IN_SHAPES} for s in ("image", "text", "multimodal")}
        told["text"]["pad_token_id"] = self.config["text_config"]["pad_token_id"]
        told["heads"] = {name: getattr(made_by, name) for name in ("head_layer_norm_eps", "logit_scale_range")}
        return Flava.from_state_dict(_loaded(self.state), **told).eval()

    def codebook(self) -> DalleEncoder | None:
        """The reference implementation of the codebook, in float32; None where there is no codebook."""
        return None if self.codebook_state is None else DalleEncoder.from_state_dict(_loaded(self.codebook_state)).eval()

    def converted(self) -> nn.Module:
        """The folder's model as the installed transformers loads it, in float32."""
        model: nn.Module = load_model(self.folder)[0]
        return model.float()


def _loaded(state: Mapping[str, TensorSource]) -> dict[str, torch.Tensor]:
    """A state dict's tensors in memory, floating point ones as float32. Keys that share a tensor share its memory."""
    loaded: dict[object, torch.Tensor] = {}

    def tensor(stored: TensorSource) -> torch.Tensor:
        if stored not in loaded:
            value = load(stored)
            loaded[stored] = value.float() if value.is_floating_point() else value
        return loaded[stored]

    return {key: tensor(stored) for key, stored in state.items()}


def converted_key(original: str) -> str:
    """The converted name of one of the original's parameters, by the rules."""
    key = FLAVA.rename(original)
    assert key is not None, f"{original} is dropped as a second copy, so it is no parameter"
    return key


def give_seeded_weights(ours: Flava, theirs: nn.Module) -> None:
    """Overwrites both models' weights with the same seeded values; the rules name the converted model's."""
    tied = dict(TIED)
    targets = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(load(seeded(name, tuple(parameter.shape), seed=0)))
            key = converted_key(name)
            for target in {key, tied.get(key, key)} & targets.keys():
                targets[target].copy_(parameter)
