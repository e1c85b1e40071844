"""The circumstances in which an observation runs FLAVA: ways to call it, each on seeded inputs.

A circumstance is one call of the small model. Its answer is flattened to tensors by name, so that releases whose classes
of outputs differ can be compared. Where the original (`flava_port.original`) has the same use, it runs too: it judges
which release is right.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..original.flava import Flava
from ..proof.forward import LOGITS, LOSSES
from ..proof.scenarios import IGNORED
from .small_model import AS_IT_IS, SMALL_MODEL, Variant

if TYPE_CHECKING:
    from transformers import FlavaForPreTraining

_PAIRS = 3
_ENCODINGS = ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked")
FORWARD = "forward"


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
    kind: str = FORWARD  # under which a change of it is reported
    variant: Variant = AS_IT_IS
    autocast: bool = False  # to bfloat16
    gradients_of_answers: bool = False  # where there are no losses

    @property
    def judged(self) -> bool:
        return self.judged_by is not None

    @property
    def has_gradients(self) -> bool:
        return self.gradients_of_answers or any(name.endswith("_labels") for name in self.inputs)

    def run(self, model: "FlavaForPreTraining") -> dict[str, Tensor]:
        """What the installed transformers answers, flattened and with its graph; the model is left as it was, its gradients filled.

        An input into which the model wrote is an answer too.
        """
        dtype = getattr(torch, self.variant.dtype)
        given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in self.inputs.items()}
        inputs = {name: value.clone() for name, value in given.items()}
        torch.manual_seed(0)
        with _scale_of(model.flava, self.logit_scale), torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext():
            model.train(self.training)
            answer = (attrgetter(self.called)(model) if self.called else model)(**inputs, **self.options)
            answers = dict(flattened(answer))
            features = getattr(answer, "pooler_output", answer)  # which come bare, or as what an encoder answers with
            if self.called.endswith("_features") and isinstance(features, Tensor):
                answers = {name: value for name, value in answers.items() if name} | {"features": features}
            model.zero_grad(set_to_none=True)
            if self.has_gradients and (derived := self._derived(answers)):
                torch.stack(derived).sum().backward()
        model.eval()
        written = {f"inputs.{name}": value for name, value in inputs.items() if not torch.equal(value, given[name])}
        return answers | written

    def _derived(self, answers: Mapping[str, Tensor]) -> list[Tensor]:
        """What gradients are of: the losses, or the answers."""
        able = {name: value for name, value in answers.items() if value.requires_grad and value.isfinite().all()}
        if self.gradients_of_answers:
            return [value.double().sin().sum() for value in able.values()]
        return [value for name, value in able.items() if "loss_info" in name]

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


def plain_circumstances() -> list[Circumstance]:
    """Those in float64 in which each input is used as people use it; most are judged by the original."""
    inputs = Inputs()
    return [*_without_labels(inputs), *_with_labels(inputs), *_of_parts(inputs)]


class Inputs:
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
        self.narrow_images = {"pixel_values": pixels(2 * side)[:, :, :, : side + image.patch_size]}
        self.flat_images = {"pixel_values": pixels(2 * side)[:, :, :side]}
        self.states = {
            "hidden_states": torch.randn(_PAIRS, 8, SMALL_MODEL.multimodal_config.hidden_size, generator=generator, dtype=torch.float64)
        }
        self.states_mask = {"attention_mask": (torch.arange(9) < torch.tensor([[9], [6], [3]])).long()}
        padded, unseen = torch.ones(2, _PAIRS, length, dtype=torch.int64)
        padded[1, 9:] = padded[2, 5:] = unseen[1] = 0
        self.padding, self.a_text_of_padding = {"attention_mask": padded}, {"attention_mask": unseen}


_PLAIN = {"return_loss": False}
_STATES = {"output_hidden_states": True}


def _without_labels(of: Inputs) -> Iterator[Circumstance]:
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


def _with_labels(of: Inputs) -> Iterator[Circumstance]:
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


def _of_parts(of: Inputs) -> Iterator[Circumstance]:
    images = {"pixel_values": of.images["pixel_values"]}
    texts = {"input_ids": of.texts["input_ids"], **of.padding}
    outputs = ("image_output", "text_output", "multimodal_output")
    interpolated = {"interpolate_pos_encoding": True}
    yield Circumstance("the codebook alone", of.codebook_alone, called="image_codebook.get_codebook_probs", judged_by=None)
    yield Circumstance("a larger image, positions interpolated", of.larger_images, interpolated, called="flava.image_model", judged_by=None)
    yield Circumstance("FlavaModel, padded texts", images | texts, _STATES, called="flava", judged_by=outputs)
    yield Circumstance("features of images", images, called="flava.get_image_features", judged_by=None)
    yield Circumstance("features of texts, padded", texts, called="flava.get_text_features", judged_by=None)
