"""The two models of a proof, their weights still in the files: the original, rebuilt, and the converted one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ..files.checkpoint import open_checkpoint
from ..files.tensors import TensorInFile, TensorSource, UnsupportedTensor
from ..files.torch_tensors import load
from ..original.codebook import DalleEncoder
from ..original.config import config_of
from ..original.flava import Flava
from ..rules.layouts import ORIGINAL_SEMANTICS, Semantics
from ..rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from ..target.installed import unloaded_model
from ..target.parts import WHOLE
from .forward import LOSSES
from .streamed import Slot, Streamed, Weight
from .twin import LoadedAs, Origin, Twin

_NOT_IN_SHAPES = ("num_attention_heads", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Sides:
    """What it takes to build both: the original's state dicts and config, and the converted folder."""

    state: Mapping[str, TensorSource]  # in the original layout, whichever layout the checkpoint has
    codebook_state: Mapping[str, TensorSource] | None
    folder: Path
    config: dict
    made_by: Semantics = ORIGINAL_SEMANTICS
    twin: Twin | None = None  # of the folder, where there is one already

    def original(self, made_by: Semantics = ORIGINAL_SEMANTICS) -> Streamed:
        """The reference implementation with the original's weights, computing as ``made_by`` does."""
        told = {s: {name: self.config[f"{s}_config"][name] for name in _NOT_IN_SHAPES} for s in ("image", "text", "multimodal")}
        told["text"]["pad_token_id"] = self.config["text_config"]["pad_token_id"]
        told["heads"] = {name: getattr(made_by, name) for name in ("head_layer_norm_eps", "logit_scale_range")}
        shapes = {key: torch.empty(stored.shape, device="meta") for key, stored in self.state.items()}
        with torch.device("meta"):
            model = Flava(config_of(shapes, **told))
        model.loss_weights = {name: self.config[f"{name}_weight"] for name in LOSSES}  # type: ignore[assignment]  # nn.Module's are tensors
        return _original(model, self.state, shapes, converted_key)

    def codebook(self) -> DalleEncoder | None:
        """The reference implementation of the codebook, in float32; None where there is no codebook."""
        return None if self.codebook_state is None else DalleEncoder.from_state_dict(_loaded(self.codebook_state)).eval()

    def streamed_codebook(self) -> Streamed | None:
        """The same, its weights still in their file."""
        if self.codebook_state is None:
            return None
        shapes = {key: torch.empty(stored.shape, device="meta") for key, stored in self.codebook_state.items()}
        model = DalleEncoder.from_state_dict(shapes)
        return _original(model, self.codebook_state, shapes, lambda key: CODEBOOK_PREFIX + (CODEBOOK.rename(key) or key))

    @cached_property
    def loaded(self) -> LoadedAs:
        """What `from_pretrained` of the installed transformers makes of the folder."""
        return (self.twin or Twin(self.folder)).loaded_as(WHOLE.model_class)

    def tensor_of(self, origin: Origin) -> TensorSource:
        """A tensor in the folder's files of weights."""
        if origin.file not in self._files:
            self._files[origin.file] = open_checkpoint(self.folder / origin.file).tensors
        tensor = self._files[origin.file][origin.key]
        assert not isinstance(tensor, UnsupportedTensor)  # which no twin is made of
        return tensor

    @cached_property
    def _files(self) -> dict[str, Mapping[str, TensorInFile]]:
        return {}

    def converted(self) -> Streamed:
        """The folder's model: what the installed transformers builds, with the values that its loader gives to it."""
        model, _ = unloaded_model(self.folder)

        def weight(key: str, value: torch.Tensor, slots: Sequence[Slot]) -> Weight:
            origin = self.loaded.keys.get(key)
            source = None if origin is None else self.tensor_of(origin)
            loaded_in = getattr(torch, self.loaded.dtypes.get(key, "float32"))
            return Weight(key, tuple(value.shape), source, slots, loaded_in, isinstance(value, nn.Parameter))

        return Streamed(model.double(), weight, self.loaded.ties)


def _original(
    model: nn.Module, state: Mapping[str, TensorSource], shapes: Mapping[str, torch.Tensor], name_of: Callable[[str], str]
) -> Streamed:
    """A model on the meta device with an original state dict's weights.

    Raises:
        RuntimeError: a key is missing or unknown, or a shape is wrong (from load_state_dict).
    """
    model.load_state_dict(shapes, strict=True)

    def weight(key: str, value: torch.Tensor, slots: Sequence[Slot]) -> Weight:
        return Weight(name_of(key), tuple(value.shape), state[key], slots, is_parameter=isinstance(value, nn.Parameter))

    return Streamed(model, weight)


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
