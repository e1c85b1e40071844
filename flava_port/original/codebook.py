"""The DALL-E image encoder, FLAVA's codebook, in plain torch under its original key names."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CodebookConfig
from .encoder import Node, uniform


class Conv2d(nn.Module):
    """A convolution that keeps the size of its input, with DALL-E's parameter names `w` and `b`."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.w = uniform(outputs, inputs, kernel, kernel, deviation=(inputs * kernel**2) ** -0.5)
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    """A residual block: identity + gain * (four times ReLU and convolution) (DALL-E, appendix A)."""

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        inner, self.gain = outputs // 4, gain
        self.id_path = nn.Identity() if inputs == outputs else Conv2d(inputs, outputs, 1)
        convolutions = Conv2d(inputs, inner, 3), Conv2d(inner, inner, 3), Conv2d(inner, inner, 3), Conv2d(inner, outputs, 1)
        self.res_path = Node(**{f"conv_{n}": convolution for n, convolution in enumerate(convolutions, start=1)})

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        residual = x
        for convolution in self.res_path.values():
            residual = convolution(F.relu(residual))
        return self.id_path(x) + self.gain * residual


class DalleEncoder(nn.Module):
    """The image codebook: pixels to logits of visual tokens. The keys are those of `DALL-E` 0.1.

    Group g is 2 ** (g - 1) times as wide as the first; 2 x 2 max pooling stands between groups.
    """

    def __init__(self, config: CodebookConfig = CodebookConfig()) -> None:
        super().__init__()
        self.config = config
        groups, blocks, width = config.num_groups, config.num_blocks_per_group, config.hidden_size
        gain = 1 / (groups * blocks) ** 2
        stages: dict[str, Node] = {}
        inputs = width
        for group in range(1, groups + 1):
            outputs = width * 2 ** (group - 1)
            widths = [inputs] + [outputs] * (blocks - 1)
            stages[f"group_{group}"] = Node(**{f"block_{i}": Block(n, outputs, gain) for i, n in enumerate(widths, start=1)})
            inputs = outputs
        output = Node(conv=Conv2d(inputs, config.vocab_size, 1))
        self.blocks = Node(input=Conv2d(config.input_channels, width, 7), **stages, output=output)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "DalleEncoder":
        """The encoder of a state dict, sharing its memory and dtypes; its sizes are read from the shapes.

        Raises:
            KeyError: a key that shows a size is missing.
            RuntimeError: another key is missing, a key is unknown, or a shape is wrong (from load_state_dict).
        """
        groups = {key.split(".")[1] for key in state_dict if key.startswith("blocks.group_")}
        blocks = {key.split(".")[2] for key in state_dict if key.startswith("blocks.group_1.")}
        width, channels = state_dict["blocks.input.w"].shape[:2]
        vocab_size = len(state_dict["blocks.output.conv.w"])
        with torch.device("meta"):
            model = cls(CodebookConfig(len(groups), len(blocks), width, vocab_size, channels))
        model.load_state_dict(state_dict, strict=True, assign=True)
        return model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, C, H, W], each in (0, 1) -> logits [B, V, H / 8, W / 8]."""
        channels = self.config.input_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(f"images {[*pixel_values.shape]}, expected [B, {channels}, H, W]")
        x = self.blocks.input(pixel_values)  # [B, hidden_size, H, W]
        for number in range(1, self.config.num_groups + 1):
            if number > 1:
                x = F.max_pool2d(x, kernel_size=2)  # [B, ..., H / 2, W / 2]
            for block in self.blocks[f"group_{number}"].children():
                x = block(x)  # twice the channels, but in group 1
        return self.blocks.output.conv(F.relu(x))

    def codebook_indices(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, C, H, W] -> the likeliest visual tokens [B, H / 8, W / 8]: MIM's labels."""
        return self(pixel_values).argmax(dim=1)
