"""The image codebook gives what plain Python loops give: padded convolutions, residual blocks, pooling between groups."""

import math

import pytest
import torch
from torch.testing import assert_close

from flava_port.original.codebook import Block, Conv2d, DalleEncoder
from flava_port.original.config import CodebookConfig
from tests.original.models import dalle_encoder


def convolve(x: torch.Tensor, part: Conv2d) -> torch.Tensor:
    """[inputs, H, W] -> [outputs, H, W]; pixels outside the image are 0."""
    weight, bias, source = part.w.tolist(), part.b.tolist(), x.tolist()
    kernel, (inputs, height, width) = part.w.shape[-1], x.shape
    taps = [(c, i, j) for c in range(inputs) for i in range(kernel) for j in range(kernel)]
    half = kernel // 2

    def at(c: int, row: int, column: int) -> float:
        return source[c][row][column] if 0 <= row < height and 0 <= column < width else 0.0

    def output(o: int, row: int, column: int) -> float:
        terms = (weight[o][c][i][j] * at(c, row + i - half, column + j - half) for c, i, j in taps)
        return math.fsum(terms) + bias[o]

    rows, columns = range(height), range(width)
    image = [[[output(o, row, column) for column in columns] for row in rows] for o in range(len(bias))]
    return torch.tensor(image, dtype=torch.float64)


def block_by_hand(x: torch.Tensor, part: Block, gain: float) -> torch.Tensor:
    residual = x
    for number in range(1, 5):
        residual = convolve(residual.clamp(min=0), part.get_submodule(f"res_path.conv_{number}"))
    identity = x if isinstance(part.id_path, torch.nn.Identity) else convolve(x, part.id_path)
    return identity + gain * residual


def pool(x: torch.Tensor) -> torch.Tensor:
    """The largest of every 2 x 2 pixels."""
    corners = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.stack(corners).amax(0)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@torch.no_grad()
def test_the_encoder_is_groups_of_blocks_with_pooling_between(pixels):
    """The encoder is 8 blocks with gain 1 / 8**2 each, and pooling after groups 1 to 3."""
    ours = dalle_encoder(CodebookConfig(hidden_size=4, vocab_size=9))
    x = convolve(pixels[0], ours.blocks.input)
    for group in range(1, 5):
        for block in (1, 2):
            x = block_by_hand(x, ours.blocks[f"group_{group}"][f"block_{block}"], gain=1 / 64)
        x = pool(x) if group < 4 else x
    expected = convolve(x.clamp(min=0), ours.blocks.output.conv)
    assert_close(ours(pixels)[0], expected)


def test_an_index_is_the_likeliest_token(pixels):
    """The index at every position is that of the largest logit."""
    ours = dalle_encoder()
    larger = pixels.repeat(2, 1, 2, 4)
    indices, logits = ours.codebook_indices(larger), ours(larger).movedim(1, -1)
    assert indices.shape == (2, 2, 4)
    likeliest = [max(range(21), key=row.__getitem__) for row in logits.flatten(0, -2).tolist()]
    assert indices.flatten().tolist() == likeliest


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(shape):
    """Pixels of another rank or number of channels are refused, with the expected shape."""
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\]"):
        DalleEncoder(CodebookConfig(hidden_size=4, vocab_size=9))(torch.zeros(shape))
