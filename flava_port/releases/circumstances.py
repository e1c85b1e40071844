"""The ways in which FLAVA is used, each on seeded inputs: what an observation of a release runs.

A circumstance is one call of a small seeded model. What it gives is flattened to names and tensors,
so that two releases can be compared whatever classes they answer with. Where the original
(`flava_port.original`) has the same use, it runs too, as the judge of which release is right.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from ..original.flava import Flava
from ..proof.forward import LOGITS, LOSSES
from ..proof.scenarios import IGNORED

# Two heads in every encoder, other sizes wherever they may differ, so that a mix-up shows.
SMALL_MODEL = FlavaConfig(
    ImageConfig(32, 2, 2, 40, image_size=12, patch_size=4, vocab_size=30),
    TextConfig(32, 2, 2, 36, vocab_size=50, max_position_embeddings=14, type_vocab_size=3),
    MultimodalConfig(32, 1, 2, 44),
    projection_dim=24,
)
SMALL_CODEBOOK = CodebookConfig(hidden_size=8, vocab_size=30)

_PAIRS = 3


@dataclass(frozen=True)
class Circumstance:
    """One use: the inputs by name, options of the call, and how the model is used where that is not a plain call."""

    name: str
    inputs: Mapping[str, Tensor]
    options: Mapping[str, object] = field(default_factory=dict)
    training: bool = False
    logit_scale: float | None = None
    call: Callable[[nn.Module, dict], object] = lambda model, inputs: model(**inputs)
    judged_by: tuple[str, ...] | None = ("",)  # the original's answers that this use has too, by how they begin; None: it has no such use

    @property
    def judged(self) -> bool:
        return self.judged_by is not None

    @property
    def has_gradients(self) -> bool:
        return any(name.endswith("_labels") for name in self.inputs)

    def run(self, model: nn.Module) -> dict[str, Tensor]:
        """What the installed transformers answers, flattened; the model is left as it was, its gradients filled."""
        inputs = {name: value.clone() for name, value in self.inputs.items()}  # transformers writes into its labels
        with _scale(model.flava, self.logit_scale):
            model.train(self.training)
            answer = dict(flattened(self.call(model, {**inputs, **self.options})))
            if self.has_gradients:
                model.zero_grad(set_to_none=True)
                losses = [value for name, value in answer.items() if "loss_info" in name and value.requires_grad and value.isfinite()]
                if losses:
                    torch.stack(losses).sum().backward()
        model.eval()
        return {name: value.detach() for name, value in answer.items()}

    def run_original(self, model: Flava) -> dict[str, Tensor]:
        """The same of the original, under transformers' names."""
        with _scale(model.heads.cmd.clip_head, self.logit_scale), torch.no_grad():
            out = model(**self.inputs)
        logits = {name: getattr(out, name) for name in LOGITS}
        losses = {f"loss_info.{name}": getattr(out, f"{name}_loss") for name in LOSSES if self.has_gradients}
        states = {
            f"{name}_output.{what}": getattr(encoding, what)
            for name in ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked")
            if (encoding := getattr(out, name)) is not None
            for what in ("last_hidden_state", "pooler_output")
        }
        # Where pairs are masked, transformers runs the multimodal encoder on what is not only where it is asked to.
        if "input_ids_masked" in self.inputs and self.options.get("skip_unmasked_multimodal_encoder") is not False:
            states = {name: value for name, value in states.items() if not name.startswith("multimodal_output")}
        found = {name: value for name, value in (logits | losses | states).items() if value is not None}
        return {name: value for name, value in found.items() if name.startswith(self.judged_by or ())}


class _scale:
    """While the block runs, the owner's ``logit_scale`` has this value; afterwards what it had, clamped or not."""

    def __init__(self, owner: nn.Module, value: float | None) -> None:
        self.parameter, self.value = owner.logit_scale, value

    def __enter__(self) -> None:
        self.before = self.parameter.detach().clone()
        if self.value is not None:
            self.parameter.data.fill_(self.value)

    def __exit__(self, *_) -> None:
        self.parameter.data.copy_(self.before)


def flattened(answer: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """``image_output.last_hidden_state`` and the like, and their tensors, of any nesting of outputs."""
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
    generator = torch.Generator().manual_seed(0)
    image, text = SMALL_MODEL.image_config, SMALL_MODEL.text_config
    side, length = image.image_size, text.max_position_embeddings
    patches = (side // image.patch_size) ** 2

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=generator)

    def some(*shape: int) -> Tensor:
        mask = torch.rand(shape, generator=generator) < 0.4
        mask[:, 0] = True
        return mask

    def pixels(of: int) -> Tensor:
        return torch.randn(_PAIRS, image.num_channels, of, of, generator=generator, dtype=torch.float64)

    words, hidden_words, hidden_patches = integers(text.vocab_size, _PAIRS, length), some(_PAIRS, length), some(_PAIRS, patches)
    seen = torch.ones(_PAIRS, length, dtype=torch.int64)
    padded = seen.clone()
    padded[1, 9:] = padded[2, 5:] = 0
    unseen = seen.clone()
    unseen[1] = 0
    images = {"pixel_values": pixels(side), "bool_masked_pos": hidden_patches}
    texts = {"input_ids": words, "input_ids_masked": words.masked_fill(hidden_words, 4)}
    mim = {"mim_labels": integers(image.vocab_size, _PAIRS, patches)}
    mlm = {"mlm_labels": words.masked_fill(~hidden_words, IGNORED)}
    pairs = {**images, **texts}
    matching, mismatched, alone = (torch.tensor(labels) for labels in ([1, 1, 1], [1, 0, 1], [0, 0, 0]))
    plain, states = {"return_loss": False}, {"output_hidden_states": True}
    features = {"pixel_values": images["pixel_values"], "input_ids": words}
    return [
        Circumstance("pairs", pairs, plain),
        Circumstance("pairs, padded texts", {**pairs, "attention_mask": padded}, plain),
        Circumstance("pairs, padded texts, the multimodal encoder on unmasked inputs too", {**pairs, "attention_mask": padded}, {**plain, "skip_unmasked_multimodal_encoder": False}),
        Circumstance("pairs, one text nothing but padding", {**pairs, "attention_mask": unseen}, plain),
        Circumstance("pairs, token types", {**pairs, "token_type_ids": integers(text.type_vocab_size, _PAIRS, length)}, plain),
        Circumstance("pairs, nothing said of losses", pairs, judged_by=None),
        Circumstance("pairs, labels, all match", {**pairs, **mim, **mlm, "itm_labels": matching}),
        Circumstance("pairs, labels, some mismatched", {**pairs, **mim, **mlm, "itm_labels": mismatched}),
        Circumstance("pairs, labels, none match", {**pairs, **mim, **mlm, "itm_labels": alone}),
        Circumstance("pairs, padded texts, labels, some mismatched", {**pairs, **mim, **mlm, "attention_mask": padded, "itm_labels": mismatched}),
        Circumstance("pairs, labels that leave nothing to predict", {**pairs, "mim_labels": torch.full_like(mim["mim_labels"], IGNORED), "mlm_labels": torch.full_like(words, IGNORED), "itm_labels": matching}),
        Circumstance("pairs, labels, training", {**pairs, **mim, **mlm, "itm_labels": mismatched}, training=True),
        Circumstance("images alone, labels", {**images, **mim}),
        Circumstance("texts alone, padded, labels", {**texts, **mlm, "attention_mask": padded}),
        Circumstance("logit scale above 4.6052", pairs, plain, logit_scale=6.0),
        Circumstance("logit scale below 0", pairs, plain, logit_scale=-2.0),
        Circumstance("logit scale above 4.6052, training", pairs, plain, logit_scale=6.0, training=True, judged_by=None),
        Circumstance("pairs, every hidden state and attention", {**pairs, "attention_mask": padded}, {**plain, **states, "output_attentions": True}),
        Circumstance("pairs, answered as a tuple", pairs, {**plain, "return_dict": False}, judged_by=None),
        Circumstance("labels from the codebook", {**pairs, "codebook_pixel_values": pixels(8 * side // image.patch_size)}, judged_by=None),
        Circumstance("the codebook alone", {"pixel_values": pixels(32)}, call=lambda model, inputs: model.image_codebook.get_codebook_probs(inputs["pixel_values"]), judged_by=None),
        Circumstance("a larger image, positions interpolated", {"pixel_values": pixels(2 * side)}, {"interpolate_pos_encoding": True}, call=lambda model, inputs: model.flava.image_model(**inputs), judged_by=None),
        Circumstance("FlavaModel, padded texts", {**features, "attention_mask": padded}, states, call=lambda model, inputs: model.flava(**inputs), judged_by=("image_output", "text_output", "multimodal_output")),
        Circumstance("features of images", {"pixel_values": features["pixel_values"]}, call=lambda model, inputs: _features(model.flava.get_image_features(**inputs)), judged_by=None),
        Circumstance("features of texts, padded", {"input_ids": words, "attention_mask": padded}, call=lambda model, inputs: _features(model.flava.get_text_features(**inputs)), judged_by=None),
    ]  # fmt: skip


def _features(answer: object) -> dict[str, object]:
    """The features, by one name whether they come bare or as what an encoder answers with."""
    return {"features": getattr(answer, "pooler_output", answer)}
