"""The circumstances in which an observation runs FLAVA: ways to call it, each on seeded inputs.

A circumstance is one call of the small model. Its answer is flattened to tensors by name, so that releases whose classes
of outputs differ can be compared. Where the original (`flava_port.original`) has the same use, it runs too: it judges
which release is right.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from ..original.flava import Flava
from ..proof.forward import LOGITS, LOSSES
from ..proof.scenarios import IGNORED

if TYPE_CHECKING:
    from transformers import FlavaForPreTraining

# Two heads in every encoder, other sizes wherever they may differ, so that a mix-up shows.
SMALL_MODEL = FlavaConfig(
    ImageConfig(32, 2, 2, 40, image_size=12, patch_size=4, vocab_size=30),
    TextConfig(32, 2, 2, 36, vocab_size=50, max_position_embeddings=14, type_vocab_size=3),
    MultimodalConfig(32, 1, 2, 44),
    projection_dim=24,
)
SMALL_CODEBOOK = CodebookConfig(hidden_size=8, vocab_size=30)

_PAIRS = 3
_ENCODINGS = ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked")


@dataclass(frozen=True)
class Circumstance:
    """One use: what is called, with which inputs and options, and which of its answers the original has too."""

    name: str
    inputs: Mapping[str, Tensor]
    options: Mapping[str, object] = field(default_factory=dict)
    training: bool = False
    logit_scale: float | None = None  # instead of the model's own
    called: str = ""  # a module or method of the model, such as ``flava.image_model``; empty for the model itself
    judged_by: tuple[str, ...] | None = ("",)  # how the names of the original's answers begin; None: it has no such use

    @property
    def judged(self) -> bool:
        return self.judged_by is not None

    @property
    def has_gradients(self) -> bool:
        return any(name.endswith("_labels") for name in self.inputs)

    def run(self, model: "FlavaForPreTraining") -> dict[str, Tensor]:
        """What the installed transformers answers, flattened; the model is left as it was, its gradients filled."""
        inputs = {name: value.clone() for name, value in self.inputs.items()}  # transformers writes into its labels
        with _scale_of(model.flava, self.logit_scale):
            model.train(self.training)
            answer = (attrgetter(self.called)(model) if self.called else model)(**inputs, **self.options)
            if self.called.endswith("_features"):  # which come bare, or as what an encoder answers with
                answer = {"features": getattr(answer, "pooler_output", answer)}
            answers = dict(flattened(answer))
            losses = [value for name, value in answers.items() if "loss_info" in name and value.requires_grad and value.isfinite()]
            model.zero_grad(set_to_none=True)
            if self.has_gradients and losses:
                torch.stack(losses).sum().backward()
        model.eval()
        return {name: value.detach() for name, value in answers.items()}

    def run_original(self, model: Flava) -> dict[str, Tensor]:
        """What the original answers, under transformers' names."""
        with _scale_of(model.heads.get_submodule("cmd.clip_head"), self.logit_scale), torch.no_grad():
            out = model(**self.inputs)
        logits = {name: getattr(out, name) for name in LOGITS}
        losses = {f"loss_info.{name}": getattr(out, f"{name}_loss") for name in LOSSES if self.has_gradients}
        states = {
            f"{name}_output.{what}": getattr(encoding, what)
            for name in _ENCODINGS
            if (encoding := getattr(out, name)) is not None
            for what in ("last_hidden_state", "pooler_output")
        }
        # Where pairs are masked, transformers runs the multimodal encoder on unmasked inputs only if it is asked to.
        if "input_ids_masked" in self.inputs and self.options.get("skip_unmasked_multimodal_encoder") is not False:
            states = {name: value for name, value in states.items() if not name.startswith("multimodal_output")}
        found = {name: value for name, value in (logits | losses | states).items() if value is not None}
        return {name: value for name, value in found.items() if name.startswith(self.judged_by or ())}


@contextmanager
def _scale_of(owner: nn.Module, value: float | None) -> Iterator[None]:
    """While the block runs, the owner's ``logit_scale`` has this value, if one is given; afterwards what it had before."""
    parameter = owner.get_parameter("logit_scale")
    before = parameter.detach().clone()
    if value is not None:
        parameter.data.fill_(value)
    try:
        yield
    finally:
        parameter.data.copy_(before)


def flattened(answer: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of any nesting of outputs, and names for them such as ``image_output.last_hidden_state``."""
    if isinstance(answer, Tensor):
        yield name, answer
    elif isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(answer, tuple | list):
        for number, value in enumerate(answer):
            yield from flattened(value, f"{name}[{number}]")


def circumstances() -> list[Circumstance]:
    """All of them; pixels in float64."""
    inputs = _Inputs()
    return [*_without_labels(inputs), *_with_labels(inputs), *_of_parts(inputs)]


class _Inputs:
    """Seeded inputs of three pairs of an image and a text; what is masked, and what is to be predicted there."""

    def __init__(self) -> None:
        image, text = SMALL_MODEL.image_config, SMALL_MODEL.text_config
        side, length, patches = image.image_size, text.max_position_embeddings, (image.image_size // image.patch_size) ** 2
        generator = torch.Generator().manual_seed(0)

        def integers(high: int, *shape: int) -> Tensor:
            return torch.randint(1, high, shape, generator=generator)

        def some(*shape: int) -> Tensor:
            mask = torch.rand(shape, generator=generator) < 0.4
            mask[:, 0] = True
            return mask

        def pixels(of: int) -> Tensor:
            return torch.randn(_PAIRS, image.num_channels, of, of, generator=generator, dtype=torch.float64)

        words, hidden_words, hidden_patches = integers(text.vocab_size, _PAIRS, length), some(_PAIRS, length), some(_PAIRS, patches)
        self.images = {"pixel_values": pixels(side), "bool_masked_pos": hidden_patches}
        self.texts = {"input_ids": words, "input_ids_masked": words.masked_fill(hidden_words, 4)}
        self.pairs: dict[str, Tensor] = self.images | self.texts
        self.mim = {"mim_labels": integers(image.vocab_size, _PAIRS, patches)}
        self.mlm = {"mlm_labels": words.masked_fill(~hidden_words, IGNORED)}
        self.token_types = {"token_type_ids": integers(text.type_vocab_size, _PAIRS, length)}
        self.codebook_images = {"codebook_pixel_values": pixels(8 * side // image.patch_size)}
        self.codebook_alone = {"pixel_values": pixels(32)}
        self.larger_images = {"pixel_values": pixels(2 * side)}
        padded, unseen = torch.ones(2, _PAIRS, length, dtype=torch.int64)
        padded[1, 9:] = padded[2, 5:] = unseen[1] = 0
        self.padding, self.a_text_of_padding = {"attention_mask": padded}, {"attention_mask": unseen}


_PLAIN = {"return_loss": False}
_STATES = {"output_hidden_states": True}


def _without_labels(of: _Inputs) -> Iterator[Circumstance]:
    padded = of.pairs | of.padding
    unmasked_too = {**_PLAIN, "skip_unmasked_multimodal_encoder": False}
    yield Circumstance("pairs", of.pairs, _PLAIN)
    yield Circumstance("pairs, padded texts", padded, _PLAIN)
    yield Circumstance("pairs, padded texts, the multimodal encoder on unmasked inputs too", padded, unmasked_too)
    yield Circumstance("pairs, one text nothing but padding", of.pairs | of.a_text_of_padding, _PLAIN)
    yield Circumstance("pairs, token types", of.pairs | of.token_types, _PLAIN)
    yield Circumstance("pairs, nothing said of losses", of.pairs, judged_by=None)
    yield Circumstance("pairs, every hidden state and attention", padded, {**_PLAIN, **_STATES, "output_attentions": True})
    yield Circumstance("pairs, answered as a tuple", of.pairs, {**_PLAIN, "return_dict": False}, judged_by=None)
    yield Circumstance("logit scale above 4.6052", of.pairs, _PLAIN, logit_scale=6.0)
    yield Circumstance("logit scale below 0", of.pairs, _PLAIN, logit_scale=-2.0)
    yield Circumstance("logit scale above 4.6052, training", of.pairs, _PLAIN, logit_scale=6.0, training=True, judged_by=None)


def _with_labels(of: _Inputs) -> Iterator[Circumstance]:
    matching, mismatched, alone = ({"itm_labels": torch.tensor(labels)} for labels in ([1, 1, 1], [1, 0, 1], [0, 0, 0]))
    labelled = of.pairs | of.mim | of.mlm
    nothing = {name: torch.full_like(labels, IGNORED) for name, labels in (of.mim | of.mlm).items()}
    yield Circumstance("pairs, labels, all match", labelled | matching)
    yield Circumstance("pairs, labels, some mismatched", labelled | mismatched)
    yield Circumstance("pairs, labels, none match", labelled | alone)
    yield Circumstance("pairs, padded texts, labels, some mismatched", labelled | of.padding | mismatched)
    yield Circumstance("pairs, labels that leave nothing to predict", of.pairs | nothing | matching)
    yield Circumstance("pairs, labels, training", labelled | mismatched, training=True)
    yield Circumstance("images alone, labels", of.images | of.mim)
    yield Circumstance("texts alone, padded, labels", of.texts | of.mlm | of.padding)
    yield Circumstance("labels from the codebook", of.pairs | of.codebook_images, judged_by=None)


def _of_parts(of: _Inputs) -> Iterator[Circumstance]:
    images = {"pixel_values": of.images["pixel_values"]}
    texts = {"input_ids": of.texts["input_ids"], **of.padding}
    outputs = ("image_output", "text_output", "multimodal_output")
    interpolated = {"interpolate_pos_encoding": True}
    yield Circumstance("the codebook alone", of.codebook_alone, called="image_codebook.get_codebook_probs", judged_by=None)
    yield Circumstance("a larger image, positions interpolated", of.larger_images, interpolated, called="flava.image_model", judged_by=None)
    yield Circumstance("FlavaModel, padded texts", images | texts, _STATES, called="flava", judged_by=outputs)
    yield Circumstance("features of images", images, called="flava.get_image_features", judged_by=None)
    yield Circumstance("features of texts, padded", texts, called="flava.get_text_features", judged_by=None)
