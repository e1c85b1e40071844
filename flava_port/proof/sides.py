"""The two models of a proof, each loaded when it is needed: the original, rebuilt, and the converted one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files.tensors import TensorSource
from ..files.torch_tensors import load
from ..original.codebook import DalleEncoder
from ..original.flava import Flava
from ..original.seeded import seeded
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from ..rules.tables import FLAVA, source_name
from ..target.installed import load_model
from ..target.keys import TIED

_UNSEEN_IN_SHAPES = ("num_attention_heads", "hidden_act", "layer_norm_eps")


@dataclass
class Sides:
    """What is needed to run both: the original's state dicts, the converted folder, the original's config."""

    state: Mapping[str, TensorSource]  # in the original's layout, whichever it came in
    codebook_state: Mapping[str, TensorSource] | None
    folder: Path
    config: dict
    originals: Mapping[str, tuple[str, TensorSource]]  # by converted key: the original's key and tensor
    made_by: Semantics = ORIGINAL_SEMANTICS
    name_of: Callable[[str], str] = source_name  # the source's name for a converted key

    def original(self, made_by: Semantics = ORIGINAL_SEMANTICS) -> Flava:
        """The reference implementation with the original's weights, in float32, computing as ``made_by`` does."""
        told = {s: {name: self.config[f"{s}_config"][name] for name in _UNSEEN_IN_SHAPES} for s in ("image", "text", "multimodal")}
        told["text"]["pad_token_id"] = self.config["text_config"]["pad_token_id"]
        told["heads"] = {name: getattr(made_by, name) for name in ("head_layer_norm_eps", "logit_scale_range")}
        return Flava.from_state_dict(_loaded(self.state), **told).eval()

    def codebook(self) -> DalleEncoder | None:
        return None if self.codebook_state is None else DalleEncoder.from_state_dict(_loaded(self.codebook_state)).eval()

    def converted(self) -> torch.nn.Module:
        return load_model(self.folder)[0].float()


def _loaded(state: Mapping[str, TensorSource]) -> dict[str, torch.Tensor]:
    """A state dict's tensors in memory, each storage once, those with a point as float32."""
    loaded: dict[object, torch.Tensor] = {}

    def tensor(stored: TensorSource) -> torch.Tensor:
        if stored not in loaded:
            value = load(stored)
            loaded[stored] = value.float() if value.is_floating_point() else value
        return loaded[stored]

    return {key: tensor(stored) for key, stored in state.items()}


def give_seeded_weights(ours: Flava, theirs: torch.nn.Module) -> None:
    """Puts the same seeded values in place of both models' weights, the converted model's through the rules."""
    tied = dict(TIED)
    targets = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(load(seeded(name, tuple(parameter.shape), seed=0)))
            key = FLAVA.rename(name)
            for target in {key, tied.get(key, key)} & targets.keys():
                targets[target].copy_(parameter)
