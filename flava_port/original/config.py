"""The sizes of FLAVA and of its codebook; fields are named as in a config.json."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def _gelu_by_tanh(x: Tensor, scale: float = math.sqrt(2 / math.pi)) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(scale * (x + 0.044715 * x**3)))


# FLAVA's is gelu, x * Phi(x) by erf. The others are what fields of a config may name, by their definitions.
GELUS_BY_TANH: dict[str, Activation] = {
    "gelu_new": _gelu_by_tanh,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_python_tanh": _gelu_by_tanh,
    "gelu_accurate": _gelu_by_tanh,
    "gelu_fast": partial(_gelu_by_tanh, scale=0.7978845608),
}
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clamp(-10, 10),
    **GELUS_BY_TANH,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "laplace": lambda x: 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "linear": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class EncoderConfig:
    """What the three transformers have in common; fields are named as in a config.json."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not split into num_attention_heads {self.num_attention_heads}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is none of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class ImageConfig(EncoderConfig):
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    vocab_size: int = 8192  # the codebook's


@dataclass(frozen=True)
class TextConfig(EncoderConfig):
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0


@dataclass(frozen=True)
class MultimodalConfig(EncoderConfig):
    num_hidden_layers: int = 6


@dataclass(frozen=True)
class CodebookConfig:
    num_groups: int = 4
    num_blocks_per_group: int = 2
    hidden_size: int = 256
    vocab_size: int = 8192
    input_channels: int = 3


@dataclass(frozen=True)
class FlavaConfig:
    image_config: ImageConfig = ImageConfig()
    text_config: TextConfig = TextConfig()
    multimodal_config: MultimodalConfig = MultimodalConfig()
    projection_dim: int = 768
    logit_scale_init_value: float = 2.6592  # log(1 / 0.07)
    ce_ignore_index: int = -100
    # Only torchmultimodal sets these two (losses/flava.py).
    head_layer_norm_eps: float | None = None  # of the prediction heads; None: the encoder's
    logit_scale_range: tuple[float, float] | None = None  # the scale is clamped to it


def config_of(
    state_dict: Mapping[str, Tensor],
    *,
    image: Mapping[str, Any] = {},
    text: Mapping[str, Any] = {},
    multimodal: Mapping[str, Any] = {},
    heads: Mapping[str, Any] = {},
) -> FlavaConfig:
    """The config of an original state dict, read from its shapes alone.

    The keywords give what no shape shows: num_attention_heads, hidden_act, layer_norm_eps and pad_token_id of an
    encoder, head_layer_norm_eps and logit_scale_range of the pretraining heads. Where they are left out, attention
    heads are 64 wide and the rest has its default.

    Raises:
        KeyError: a key is missing.
        ValueError: the sizes fit no FLAVA.
    """
    embeddings = "image_encoder.module.embeddings."
    _, channels, _, patch = state_dict[embeddings + "patch_embeddings.projection.weight"].shape
    patches = state_dict[embeddings + "position_embeddings"].shape[1] - 1
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"{embeddings}position_embeddings: {patches} patches make no square image")
    pixels = dict(image_size=math.isqrt(patches) * patch, patch_size=patch, num_channels=channels)
    pixels["vocab_size"] = len(state_dict["heads.imagenet.mim_head.cls.predictions.decoder.weight"])
    tables = dict(vocab_size="word", max_position_embeddings="position", type_vocab_size="token_type")
    words = {field: len(state_dict[f"text_encoder.module.embeddings.{table}_embeddings.weight"]) for field, table in tables.items()}
    return FlavaConfig(
        ImageConfig(**{**_transformer_sizes(state_dict, "image_encoder"), **pixels, **image}),
        TextConfig(**{**_transformer_sizes(state_dict, "text_encoder"), **words, **text}),
        MultimodalConfig(**{**_transformer_sizes(state_dict, "mm_encoder"), **multimodal}),
        projection_dim=len(state_dict["image_projection.weight"]),
        **heads,
    )


def _transformer_sizes(state_dict: Mapping[str, Tensor], encoder: str) -> dict[str, int]:
    layer = f"{encoder}.module.encoder.layer."
    numbers = {key.removeprefix(layer).split(".")[0] for key in state_dict if key.startswith(layer)}
    inner, width = state_dict[layer + "0.intermediate.dense.weight"].shape
    return dict(hidden_size=width, num_hidden_layers=len(numbers), num_attention_heads=width // 64, intermediate_size=inner)
