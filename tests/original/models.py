"""Tiny reference models with recognisable weights, inputs for them, and the comparison of two computations."""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from flava_port.files.torch_tensors import load
from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.original.flava import Flava
from flava_port.original.seeded import seeded_codebook, seeded_state_dict

# Other sizes than `builders.TINY`, whose heads are 64 wide because that is what the converter takes them to be. Here each
# encoder has several heads, 4 or 16 wide, as torchmultimodal rounds the square root of that number to float32 in every
# precision. Encoders are of one width, as the MMM heads and torchmultimodal need it...
ONE_WIDTH = FlavaConfig(
    ImageConfig(32, 2, 8, 44, image_size=24, patch_size=8, vocab_size=21),
    TextConfig(32, 3, 2, 52, vocab_size=37, max_position_embeddings=11, type_vocab_size=3),
    MultimodalConfig(32, 1, 8, 60),
    projection_dim=14,
)
# ...and of three widths where the heads do not run, so that no two sizes are equal and a mix-up cannot pass.
CONFIG = replace(
    ONE_WIDTH,
    image_config=replace(ONE_WIDTH.image_config, hidden_size=24, num_attention_heads=4),
    multimodal_config=replace(ONE_WIDTH.multimodal_config, hidden_size=40, num_attention_heads=5),
)
CODEBOOK = CodebookConfig(hidden_size=8, vocab_size=21)

IGNORE = CONFIG.ce_ignore_index


class Batch(NamedTuple):
    """Inputs of `Flava.forward`: three pairs of nine patches and seven tokens, some masked, without padding."""

    pixel_values: Tensor  # [3, 3, 24, 24]
    input_ids: Tensor  # [3, 7], none of them 0
    input_ids_masked: Tensor  # [3, 7]
    bool_masked_pos: Tensor  # [3, 3, 3]
    mim_labels: Tensor  # [3, 3, 3]
    mlm_labels: Tensor  # [3, 7]
    itm_labels: Tensor  # [3]


@cache
def weights(config: FlavaConfig, seed: int) -> dict[str, Tensor]:
    return {key: load(source) for key, source in seeded_state_dict(config, seed).items()}


def flava(config: FlavaConfig = CONFIG, seed: int = 0, dtype: torch.dtype = torch.float64) -> Flava:
    """A model whose every tensor is recognisable."""
    model = Flava(config)
    model.load_state_dict(weights(config, seed))
    return model.to(dtype).eval()


def dalle_encoder(config: CodebookConfig = CODEBOOK, dtype: torch.dtype = torch.float64) -> DalleEncoder:
    model = DalleEncoder(config)
    model.load_state_dict({key: load(source) for key, source in seeded_codebook(config).items()})
    return model.to(dtype).eval()


def batch(config: FlavaConfig = CONFIG, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """A batch in which every row has masked patches and tokens, and the second pair does not match."""
    generator = torch.Generator().manual_seed(seed)
    side = config.image_config.image_size
    pixels = torch.randn(3, 3, side, side, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, config.text_config.vocab_size, (3, 7), generator=generator)
    masked_tokens = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1], [0, 1, 1, 0, 0, 1, 0]]).bool()
    masked_patches = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1], [0, 1, 0]]])
    mask_id = config.text_config.vocab_size - 1
    mim_labels = torch.randint(config.image_config.vocab_size, (3, 3, 3), generator=generator)
    return Batch(
        pixel_values=pixels.to(dtype),
        input_ids=ids,
        input_ids_masked=ids.masked_fill(masked_tokens, mask_id),
        bool_masked_pos=masked_patches.bool(),
        mim_labels=mim_labels,
        mlm_labels=ids.masked_fill(~masked_tokens, IGNORE),
        itm_labels=torch.tensor([1, 0, 1]),
    )


# The tolerance, in noise floors. Measured over 40 seeds, every output of both peers, torch 2.13 on CPU: peers lie
# at most 1.0 floors from ours in float32, and 0 in float64. The weakest fault (an epsilon of 1e-5 for 1e-12 in the
# heads) lies 31 floors away in float32, and 1.7e10 in float64. 6 is about the middle of 1 and 31 on a log scale.
MARGIN = 6


def assert_rounding_apart(name: str, theirs: Tensor, ours: Tensor, ours_float32: Tensor, computed_from: Tensor | None = None) -> None:
    """Asserts that theirs equals ours (float64) but for rounding in the dtype of theirs.

    The noise floor is how far our own float32 run lies from our float64 run, scaled to the precision of
    the dtype of theirs. It is at least one rounding of the largest value, or of the largest value that it
    was computed from.
    """
    __tracebackhide__ = True
    assert theirs.shape == ours.shape, f"{name}: shape {[*theirs.shape]}, expected {[*ours.shape]}"
    precision = torch.finfo(theirs.dtype).eps / torch.finfo(torch.float32).eps
    largest = max(float(values.detach().abs().max()) for values in (ours, computed_from) if values is not None)
    floor = (ours_float32.double() - ours).abs().max().clamp_min(torch.finfo(torch.float32).eps * largest)
    tolerance = MARGIN * precision * floor.item()
    apart = (theirs.double() - ours).abs().max().item()
    assert apart <= tolerance, f"{name}: max |Δ| {apart:.1e}, tolerance {tolerance:.1e} for {theirs.dtype}"
