"""FLAVA itself. The docstring of `flava_port.original` lists its sources and the letters in shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import EncoderConfig, FlavaConfig, config_of
from .encoder import EncoderOutput, ImageEmbeddings, TextEmbeddings, Transformer, uniform
from .heads import PredictionHead, pretraining_heads


def pairs_used(itm_labels: Tensor | None, image: Tensor) -> Tensor:
    """Labels [B] -> [U], the pairs in the MMM and contrastive losses: those that match; all, if none.

    Origin: torchmultimodal-nightly 2024.4.1, losses/flava.py.
    """
    pairs = torch.arange(len(image), device=image.device)
    return pairs if itm_labels is None or not itm_labels.any() else pairs[itm_labels != 0]


@dataclass
class FlavaOutput:
    """What `Flava.forward` computed; None for what its inputs do not reach.

    `image`, `text` and `multimodal` are the encoders' outputs for the inputs as they are, `image_masked` and so on
    for the masked inputs (the same object where nothing is masked). MMM is also None where the encoders' widths
    differ. For U and [K, V] see `pairs_used` and `PredictionHead.predict`.
    """

    image: EncoderOutput | None = None  # S = 1 + N: class token, patches
    image_masked: EncoderOutput | None = None
    text: EncoderOutput | None = None  # S = T
    text_masked: EncoderOutput | None = None
    multimodal: EncoderOutput | None = None  # S = 1 + (1 + N) + T: class token, image, text
    multimodal_masked: EncoderOutput | None = None

    image_embeddings: Tensor | None = None  # [B, P], of length 1
    text_embeddings: Tensor | None = None  # [B, P], of length 1
    contrastive_logits_per_image: Tensor | None = None  # [U, B]
    contrastive_logits_per_text: Tensor | None = None  # [U, B]
    itm_logits: Tensor | None = None  # [B, 2]
    mim_logits: Tensor | None = None  # [B, N, V], or [K, V]
    mlm_logits: Tensor | None = None  # [B, T, V], or [K, V]
    mmm_image_logits: Tensor | None = None  # [U, N, V], or [K, V]
    mmm_text_logits: Tensor | None = None  # [U, T, V], or [K, V]

    global_contrastive_loss: Tensor | None = None  # this and all below are scalars
    itm_loss: Tensor | None = None
    mim_loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    mmm_image_loss: Tensor | None = None
    mmm_text_loss: Tensor | None = None

    @property
    def loss(self) -> Tensor | None:
        """The sum of the losses that there are, each with weight 1."""
        found = [v for name, v in vars(self).items() if name.endswith("_loss") and v is not None]
        return torch.stack(found).sum() if found else None


class Modality(NamedTuple):
    """What one encoder makes of its inputs."""

    plain: EncoderOutput
    masked: EncoderOutput  # the same object as `plain` where nothing is masked
    embeddings: Tensor  # [B, P], of length 1


class Encoder(nn.Module):
    """A transformer under `module`. The original also holds its embeddings a second time, beside `module`."""

    def __init__(self, config: EncoderConfig, embeddings: nn.Module | None = None) -> None:
        super().__init__()
        self.module = Transformer(config, embeddings)
        if embeddings is not None:
            self.embeddings = embeddings


class Flava(nn.Module):
    """FLAVA with its pretraining heads; `state_dict()` has the keys of the original checkpoint."""

    def __init__(self, config: FlavaConfig = FlavaConfig()) -> None:
        super().__init__()
        self.config = config
        image, text, mm = config.image_config, config.text_config, config.multimodal_config
        self.image_encoder = Encoder(image, ImageEmbeddings(image))
        self.text_encoder = Encoder(text, TextEmbeddings(text))
        self.mm_encoder = Encoder(mm)
        self.mm_encoder.module.encoder.cls_token = uniform(1, 1, mm.hidden_size)

        self.mm_image_projection = nn.Linear(image.hidden_size, mm.hidden_size)
        self.mm_text_projection = nn.Linear(text.hidden_size, mm.hidden_size)
        self.image_projection = nn.Linear(image.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim)
        self.heads = pretraining_heads(config)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], **unseen: Mapping[str, Any]) -> "Flava":
        """The model of an original state dict, sharing its memory and dtypes; for `unseen` see `config_of`.

        Raises:
            KeyError: a key that shows a size is missing.
            ValueError: the sizes fit no FLAVA, or two copies of one tensor differ.
            RuntimeError: another key is missing, a key is unknown, or a shape is wrong (from load_state_dict).
        """
        for key, tensor in state_dict.items():
            kept = key.replace("_encoder.embeddings.", "_encoder.module.embeddings.")
            kept = kept.replace(".predictions.bias", ".predictions.decoder.bias")
            if kept != key and kept in state_dict:
                other = state_dict[kept]
                if other.dtype != tensor.dtype or other.shape != tensor.shape or not _same_values(other, tensor):
                    raise ValueError(f"{key} and {kept} differ; they are one tensor")
        with torch.device("meta"):
            model = cls(config_of(state_dict, **unseen))
        model.load_state_dict(state_dict, strict=True, assign=True)
        for head in model.modules():
            if isinstance(head, PredictionHead):
                head.tie()
        return model

    def encode_image(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> EncoderOutput:
        """Pixels [B, C, H, W], masked patches [B, N] or [B, rows, columns] -> S = 1 + N."""
        encoder = self.image_encoder.module
        out = encoder(encoder.embeddings(pixel_values, bool_masked_pos))
        return out._replace(projected=self.mm_image_projection(out.hidden_states[-1]))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> EncoderOutput:
        """Ids, mask (0: padding, 1, or all 1 if not given), token types, each [B, T] -> S = T."""
        encoder = self.text_encoder.module
        out = encoder(encoder.embeddings(input_ids, token_type_ids), attention_mask)
        return out._replace(projected=self.mm_text_projection(out.hidden_states[-1]))

    def encode_multimodal(self, image: EncoderOutput, text: EncoderOutput, attention_mask: Tensor | None = None) -> EncoderOutput:
        """Outputs of `encode_image` and `encode_text`, the text's mask [B, T] -> S = 1 + (1 + N) + T (FLAVA, 3.1).

        What enters is each encoder's last state *before* its final layer norm (torchmultimodal, flava/model.py).
        """
        if image.projected is None or text.projected is None:
            raise ValueError("encode_multimodal takes what encode_image and encode_text return")
        encoder = self.mm_encoder.module
        cls = encoder.encoder.cls_token.expand(len(image.projected), -1, -1)  # [B, 1, M]
        x = torch.cat([cls, image.projected, text.projected], dim=1)  # [B, 1 + (1 + N) + T, M]
        if attention_mask is not None:
            seen = attention_mask.new_ones(len(x), 1 + image.projected.shape[1])
            attention_mask = torch.cat([seen, attention_mask], dim=1)  # [B, 1 + (1 + N) + T]
        return encoder(x, attention_mask)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        input_ids_masked: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        mim_labels: Tensor | None = None,
        mlm_labels: Tensor | None = None,
        itm_labels: Tensor | None = None,
    ) -> FlavaOutput:
        """Pixels [B, C, H, W], ids [B, T], or both -> every state, logit and loss that they reach.

        input_ids_masked, attention_mask, token_type_ids, mlm_labels: [B, T]. bool_masked_pos, mim_labels: [B, N] or
        [B, rows, columns]; labels of unmasked patches do not count, nor those equal to ce_ignore_index. itm_labels: [B],
        0 where image and text do not match. One modality gives MIM or MLM; both give contrastive, ITM and MMM instead.
        Raises ValueError for an input without the one it belongs to.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("neither pixel_values nor input_ids")
        _needs(bool_masked_pos=bool_masked_pos, pixel_values=pixel_values)
        _needs(mim_labels=mim_labels, bool_masked_pos=bool_masked_pos)
        _needs(input_ids_masked=input_ids_masked, input_ids=input_ids)
        _needs(mlm_labels=mlm_labels, input_ids=input_ids)
        out = FlavaOutput()
        image = None if pixel_values is None else self._image(out, pixel_values, bool_masked_pos)
        text = None if input_ids is None else self._text(out, input_ids, input_ids_masked, attention_mask, token_type_ids)
        if mim_labels is not None and bool_masked_pos is not None:
            unmasked = ~bool_masked_pos.flatten(1).bool()  # [B, N]
            mim_labels = mim_labels.flatten(1).masked_fill(unmasked, self.config.ce_ignore_index)
        if image is not None and text is not None:
            used = pairs_used(itm_labels, image.embeddings)  # [U]
            states = self._multimodal(out, image, text, attention_mask)  # [B, 1 + (1 + N) + T, M]
            self._contrast(out, image, text, used)
            self._match(out, states, itm_labels)
            self._model_masked(out, image, states, used, mim_labels, mlm_labels)
        else:
            self._model_masked_alone(out, image, text, mim_labels, mlm_labels)
        return out

    # Each step below fills in its part of the output.

    def _image(self, out: FlavaOutput, pixel_values: Tensor, bool_masked_pos: Tensor | None) -> Modality:
        plain = self.encode_image(pixel_values)
        masked = plain if bool_masked_pos is None else self.encode_image(pixel_values, bool_masked_pos)
        cls = plain.last_hidden_state[:, 0]  # [B, D]
        image = Modality(plain, masked, F.normalize(self.image_projection(cls), dim=-1))
        out.image, out.image_masked, out.image_embeddings = image
        return image

    def _text(self, out: FlavaOutput, ids: Tensor, ids_masked: Tensor | None, *mask_and_types: Tensor | None) -> Modality:
        plain = self.encode_text(ids, *mask_and_types)
        masked = plain if ids_masked is None else self.encode_text(ids_masked, *mask_and_types)
        cls = plain.last_hidden_state[:, 0]  # [B, D]
        text = Modality(plain, masked, F.normalize(self.text_projection(cls), dim=-1))
        out.text, out.text_masked, out.text_embeddings = text
        return text

    def _multimodal(self, out: FlavaOutput, image: Modality, text: Modality, attention_mask: Tensor | None) -> Tensor:
        """Returns the last states of the masked inputs, [B, 1 + (1 + N) + T, M]."""
        plain = masked = self.encode_multimodal(image.plain, text.plain, attention_mask)
        if image.masked is not image.plain or text.masked is not text.plain:
            masked = self.encode_multimodal(image.masked, text.masked, attention_mask)
        out.multimodal, out.multimodal_masked = plain, masked
        return masked.last_hidden_state

    def _contrast(self, out: FlavaOutput, image: Modality, text: Modality, used: Tensor) -> None:
        """Global contrastive: each used image against every text, and the reverse (FLAVA, 3.2)."""
        scale: Tensor = self.heads.cmd.clip_head.logit_scale
        if self.config.logit_scale_range is not None:
            scale = scale.clamp(*self.config.logit_scale_range)
        similarity = image.embeddings @ text.embeddings.T * scale.exp()  # [B, B]
        per_image, per_text = similarity[used], similarity.T[used]  # [U, B] each
        out.contrastive_logits_per_image, out.contrastive_logits_per_text = per_image, per_text
        # The text of image i is text i.
        out.global_contrastive_loss = (F.cross_entropy(per_image, used) + F.cross_entropy(per_text, used)) / 2

    def _match(self, out: FlavaOutput, states: Tensor, labels: Tensor | None) -> None:
        """ITM: do image and text belong together? (FLAVA, 3.2)"""
        head = self.heads.cmd.itm_head
        out.itm_logits = head.cls.seq_relationship(head.pooler(states))  # [B, 2]
        if labels is not None:
            out.itm_loss = F.cross_entropy(out.itm_logits, labels.long(), ignore_index=self.config.ce_ignore_index)

    def _model_masked(
        self, out: FlavaOutput, image: Modality, states: Tensor, used: Tensor, mim_labels: Tensor | None, mlm_labels: Tensor | None
    ) -> None:
        """MMM: what were the masked patches and tokens? (FLAVA, 3.2)

        Its heads are as wide as the image and the text encoder; where the multimodal encoder is not, they fit nothing.
        """
        image_head, text_head = self.heads.cmd.mim_head.cls.predictions, self.heads.cmd.mlm_head.cls.predictions
        text_start = 1 + image.plain.last_hidden_state.shape[1]
        states = states[used]  # [U, 1 + (1 + N) + T, M]
        patches, tokens = states[:, 2:text_start], states[:, text_start:]  # [U, N, M], [U, T, M]
        mim_labels = None if mim_labels is None else mim_labels[used]
        mlm_labels = None if mlm_labels is None else mlm_labels[used]
        if image_head.fits(patches):
            out.mmm_image_logits, out.mmm_image_loss = image_head.predict(patches, mim_labels)
        if text_head.fits(tokens):
            out.mmm_text_logits, out.mmm_text_loss = text_head.predict(tokens, mlm_labels)

    def _model_masked_alone(
        self, out: FlavaOutput, image: Modality | None, text: Modality | None, mim_labels: Tensor | None, mlm_labels: Tensor | None
    ) -> None:
        """MIM or MLM: the same for one modality, read from that encoder alone (FLAVA, 3.3)."""
        if image is not None:
            head = self.heads.imagenet.mim_head.cls.predictions
            patches = image.masked.last_hidden_state[:, 1:]  # [B, N, D]
            out.mim_logits, out.mim_loss = head.predict(patches, mim_labels)
        if text is not None:
            head = self.heads.fairseq_mlm.cls.predictions
            out.mlm_logits, out.mlm_loss = head.predict(text.masked.last_hidden_state, mlm_labels)


def _needs(**inputs: Tensor | None) -> None:
    """Raises ValueError where the first input is given without the second."""
    (name, value), (needed, found) = inputs.items()
    if value is not None and found is None:
        raise ValueError(f"{name} without {needed}")


def _same_values(one: Tensor, other: Tensor) -> bool:
    """Whether every element is equal; a NaN equals a NaN."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
