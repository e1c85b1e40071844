"""The inputs on which both models run, made from a seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..original.flava import Flava

IGNORED = -100
SHORT_TEXT = 12


@dataclass(frozen=True)
class Scenario:
    """One way to use FLAVA: its name, and the inputs by the names of `Flava.forward`'s arguments."""

    name: str
    inputs: Mapping[str, Tensor]

    @property
    def has_labels(self) -> bool:
        return any(name.endswith("_labels") for name in self.inputs)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> "Scenario":
        """The same inputs with pixels in ``dtype``, on another device if one is given."""
        moved = {name: value.to(device) for name, value in self.inputs.items()}
        return Scenario(self.name, {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()})


def scenarios(model: Flava, *, brief: bool = False, seed: int = 0) -> list[Scenario]:
    """Inputs that reach every part: masks, padding, token types, labels, ITM negatives; and every position and patch.

    Pixels are float32. ``brief`` is for large models: two short texts, which `blocks` lengthens, beside one image twice.
    """
    longest = model.config.text_config.max_position_embeddings
    pairs = _inputs(model, 2, min(longest, SHORT_TEXT), seed) if brief else _inputs(model, 3, longest, seed)
    if brief:
        pairs |= {name: pairs[name][:1].expand_as(pairs[name]).clone() for name in ("pixel_values", "bool_masked_pos")}
    image = ("pixel_values", "bool_masked_pos", "mim_labels")
    text = ("input_ids", "input_ids_masked", "attention_mask", "token_type_ids", "mlm_labels")
    cases = [
        Scenario("pairs, masked, with labels", pairs),
        Scenario("images, masked, with labels", {name: pairs[name] for name in image}),
        Scenario("texts, masked, with labels", {name: pairs[name] for name in text}),
    ]
    if not brief:
        cases.append(Scenario("pairs, plain", {name: pairs[name] for name in ("pixel_values", "input_ids")}))
    return cases


def _inputs(model: Flava, pairs: int, length: int, seed: int) -> dict[str, Tensor]:
    """Every input of FLAVA, for ``pairs`` images and texts. The first text has no padding, the others end in some."""
    generator = torch.Generator().manual_seed(seed)
    image, text = model.config.image_config, model.config.text_config
    patches = (image.image_size // image.patch_size) ** 2

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(min(1, high - 1), high, shape, generator=generator)

    def some(*shape: int) -> Tensor:
        mask = torch.rand(shape, generator=generator) < 0.4
        mask[:, 0] = True  # at least one in each row
        return mask

    pixels = torch.randn(pairs, image.num_channels, image.image_size, image.image_size, generator=generator)
    words, masked_words = integers(text.vocab_size, pairs, length), some(pairs, length)
    attention = torch.ones(pairs, length, dtype=torch.int64)
    for row in range(1, pairs):
        attention[row, max(1, length - 2 * row) :] = 0
    return {
        "pixel_values": pixels,
        "input_ids": words,
        "input_ids_masked": words.masked_fill(masked_words, 0),
        "attention_mask": attention,
        "token_type_ids": integers(text.type_vocab_size, pairs, length),
        "bool_masked_pos": some(pairs, patches),
        "mim_labels": integers(image.vocab_size, pairs, patches),
        "mlm_labels": words.masked_fill(~masked_words | (attention == 0), IGNORED),
        "itm_labels": torch.tensor([1] + [row % 2 for row in range(pairs - 1)]),
    }
