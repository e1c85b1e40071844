"""FLAVA's pretraining heads and the key tree that holds them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ACTIVATIONS, FlavaConfig, ImageConfig, TextConfig
from .encoder import Node, Pooler


class PredictionHead(nn.Module):
    """decoder(LayerNorm(act(dense(x)))). The head holds the decoder's bias a second time, as `bias`."""

    def __init__(self, config: ImageConfig | TextConfig, ignore_index: int, layer_norm_eps: float | None = None) -> None:
        super().__init__()
        width, self.ignore_index = config.hidden_size, ignore_index
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps if layer_norm_eps is None else layer_norm_eps)
        self.transform = Node(dense=nn.Linear(width, width), LayerNorm=norm)
        self.decoder = nn.Linear(width, config.vocab_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.tie()

    def tie(self) -> None:
        """Makes the two biases one tensor."""
        self.bias = self.decoder.bias

    def _apply(self, fn: Any, recurse: bool = True) -> "PredictionHead":
        super()._apply(fn, recurse)
        self.tie()  # leaving the meta device makes every parameter anew
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.decoder(self.transform.LayerNorm(self.activation(self.transform.dense(x))))

    def fits(self, x: Tensor) -> bool:
        """Whether the states [..., D] are as wide as the head."""
        return self.transform.dense.in_features == x.shape[-1]

    def predict(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """States [B, S, D], labels [B, S] -> logits, mean cross entropy (FLAVA, 3.2 MMM and 3.3).

        With labels: the logits of the labelled positions, [K, V] in row-major order (the mean over
        K = 0 is NaN). Without: those of every position, [B, S, V], and no loss.
        """
        if labels is None:
            return self(x), None
        labelled = labels != self.ignore_index  # [B, S]
        logits = self(x[labelled])  # [K, V]
        return logits, F.cross_entropy(logits, labels[labelled])


class ContrastiveHead(nn.Module):
    """The logarithm of the scale of contrastive logits."""

    def __init__(self, config: FlavaConfig) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))


def pretraining_heads(config: FlavaConfig) -> Node:
    """New heads: those of pairs (`cmd`), of texts alone (`fairseq_mlm`) and of images alone (`imagenet`)."""
    image, text, width = config.image_config, config.text_config, config.multimodal_config.hidden_size

    def masked(encoder: ImageConfig | TextConfig) -> Node:
        return Node(cls=Node(predictions=PredictionHead(encoder, config.ce_ignore_index, config.head_layer_norm_eps)))

    matching = Node(pooler=Pooler(width), cls=Node(seq_relationship=nn.Linear(width, 2)))
    return Node(
        cmd=Node(mim_head=masked(image), mlm_head=masked(text), itm_head=matching, clip_head=ContrastiveHead(config)),
        fairseq_mlm=masked(text),
        imagenet=Node(mim_head=masked(image)),
    )
