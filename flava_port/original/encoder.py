"""The transformer encoders of FLAVA: attention, layers, embeddings."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import ACTIVATIONS, EncoderConfig, ImageConfig, TextConfig


class Node(nn.ModuleDict):
    """A name in the original's keys that stands for no computation.

    `Node(dense=linear)` gives the keys `dense.weight` and `dense.bias`.
    """

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__(modules)

    if TYPE_CHECKING:  # what lies below has the type that it was made with

        def __getattr__(self, name: str) -> Any: ...


class SelfAttention(nn.Module):
    """Scaled dot-product attention in several heads, without the output projection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, S, D], additive mask [B, 1, 1, S] -> [B, S, D]."""
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, heads, S, S]
        if mask is not None:
            scores = scores + mask
        context = scores.softmax(-1) @ v  # [B, heads, S, D / heads]
        return context.transpose(1, 2).flatten(2)  # [B, S, D]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, S, D / heads]


class Layer(nn.Module):
    """A pre-norm transformer layer: each half adds to its own, unnormalised, input (ViT, 3.1)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.attention = Node(attention=SelfAttention(config), output=Node(dense=nn.Linear(width, width)))
        self.intermediate = Node(dense=nn.Linear(width, inner))
        self.output = Node(dense=nn.Linear(inner, width))
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, S, D], additive mask [B, 1, 1, S] -> [B, S, D]."""
        x = x + self.attention.output.dense(self.attention.attention(self.layernorm_before(x), mask))
        inner = self.activation(self.intermediate.dense(self.layernorm_after(x)))  # [B, S, inner]
        return x + self.output.dense(inner)


class Pooler(nn.Module):
    """tanh(dense(first token))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, D]."""
        return torch.tanh(self.dense(x[:, 0]))


class EncoderOutput(NamedTuple):
    hidden_states: tuple[Tensor, ...]  # layers + 1 of [B, S, D]: the embeddings, then each layer's
    last_hidden_state: Tensor  # [B, S, D]: the layer norm of hidden_states[-1]
    pooler_output: Tensor  # [B, D]
    projected: Tensor | None = None  # [B, S, M]: hidden_states[-1] as the multimodal encoder gets it


class Transformer(nn.Module):
    """Layers, a final layer norm and a pooler. It holds the embeddings, if it has any; its caller applies them."""

    def __init__(self, config: EncoderConfig, embeddings: nn.Module | None = None) -> None:
        super().__init__()
        if embeddings is not None:
            self.embeddings = embeddings
        self.encoder = Node(layer=nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers)))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = Pooler(config.hidden_size)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> EncoderOutput:
        """Embeddings [B, S, D], attention_mask [B, S] (0: padding, else 1) -> EncoderOutput."""
        mask = None if attention_mask is None else additive(attention_mask, x.dtype)
        states = [x]
        for layer in self.encoder.layer:
            states.append(layer(states[-1], mask))
        last = self.layernorm(states[-1])
        return EncoderOutput(tuple(states), last, self.pooler(last))


def additive(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Ones and zeros [B, S] -> zeros and the lowest number of the dtype [B, 1, 1, S].

    Added to the scores, it makes the softmax of a padding key exactly 0. Unlike -inf, it makes no NaN
    where every key is padding.
    """
    padding = attention_mask[:, None, None, :] == 0
    return torch.zeros_like(padding, dtype=dtype).masked_fill(padding, torch.finfo(dtype).min)


def uniform(*shape: int, deviation: float = 0.02) -> nn.Parameter:
    """Evenly distributed values around 0 with this standard deviation."""
    bound = math.sqrt(3) * deviation
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class ImageEmbeddings(nn.Module):
    """Patches, mask token, class token, positions: in this order (ViT, 3.1; BEiT, 2)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width, patch, side = config.hidden_size, config.patch_size, config.image_size
        self.image_shape = (config.num_channels, side, side)
        self.cls_token = uniform(1, 1, width)
        self.mask_token = uniform(1, 1, width)
        self.position_embeddings = uniform(1, 1 + (side // patch) ** 2, width)
        self.patch_embeddings = Node(projection=nn.Conv2d(config.num_channels, width, patch, patch))

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """Pixels [B, C, H, W], masked patches [B, N] or [B, rows, columns] -> [B, 1 + N, D]."""
        if pixel_values.shape[1:] != self.image_shape:
            raise ValueError(f"images {[*pixel_values.shape[1:]]}, expected {[*self.image_shape]}")
        x = self.patch_embeddings.projection(pixel_values)  # [B, D, rows, columns]
        x = x.flatten(2).transpose(1, 2)  # [B, N, D], row by row
        if bool_masked_pos is not None:
            masked = bool_masked_pos.flatten(1).bool()  # [B, N]
            x = torch.where(masked[..., None], self.mask_token, x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # [B, 1 + N, D]
        return x + self.position_embeddings


class TextEmbeddings(nn.Module):
    """The layer norm of words + positions + token types (BERT, 3)."""

    position_ids: Tensor  # [1, max_position_embeddings], a buffer

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, longest = config.hidden_size, config.max_position_embeddings
        # nn.Embedding(...) and torch.arange would take seconds on the meta device; these do not.
        table = partial(nn.Embedding.from_pretrained, freeze=False)
        self.word_embeddings = table(uniform(config.vocab_size, width), padding_idx=config.pad_token_id)
        self.position_embeddings = table(uniform(longest, width))
        self.token_type_embeddings = table(uniform(config.type_vocab_size, width))
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.register_buffer("position_ids", torch.tensor([range(longest)]))

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Ids [B, T], token types [B, T] (0 where not given) -> [B, T, D]."""
        length, longest = input_ids.shape[1], self.position_ids.shape[1]
        if length > longest:
            raise ValueError(f"input_ids {[*input_ids.shape]}: more than {longest} positions")
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        words, types = self.word_embeddings(input_ids), self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(words + self.position_embeddings(self.position_ids[:, :length]) + types)
