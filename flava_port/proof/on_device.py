"""Compares the forward passes on a device, in float32 and in bfloat16, as models are used.

There, rounding is much of what one sees. The converted model may lie no further from the exact result,
which float64 gave, than the original itself does on that device, times a margin.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch

from ..errors import InvalidInput
from .certificate import Measured
from .forward import Runner, relative_error, run_converted, run_original
from .sides import Sides
from .streamed import Streamed, StreamedBlock
from .whole import Expected

PRECISIONS = (torch.float32, torch.bfloat16)

# Both sides round as often, but in another order: the larger of two such errors is rarely twice the other.
_MARGIN = 4.0


def check_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InvalidInput: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def compare_on(device: torch.device, dtype: torch.dtype, sides: Sides, expected: Expected, own: float) -> list[Measured]:
    """Every output's error against the exact one. Four times the original's largest error on the device is allowed.

    At least ``own`` is: how far off the outputs may be that count as exact, which are float32's of a large model.
    """
    with _full_precision(), torch.no_grad():
        rounding = _errors(device, dtype, run_original, sides.original(), expected)
        errors = _errors(device, dtype, run_converted, sides.converted(), expected)
    allowed = max(_MARGIN * max(rounding.values()), own if isfinite(own) else 0.0)  # it is not where a block overflows
    return [Measured(name, error, allowed) for name, error in errors.items()]


def _errors(device: torch.device, dtype: torch.dtype, run: Runner[Any], side: Streamed, expected: Expected) -> dict[str, float]:
    """The relative errors of a model all of which runs on the device; a block's weights go there when it runs."""

    def call(block: StreamedBlock, *args: object, **kwargs: object) -> Any:
        with block.filled(block.load(dtype, device)):
            return block.forward(*args, **kwargs)

    side.model.to(dtype)
    errors = {}
    for case, wanted in zip(expected.cases, expected.outputs):
        with side.running(call, dtype, device):
            actual = run(side.model, case.to(dtype, device))
        for name, exact in wanted.items():
            errors[f"{case.name}: {name}"] = relative_error(actual[name].cpu(), exact) if name in actual else float("inf")
    return errors


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TensorFloat-32, which keeps 10 of a float32's 23 bits and which convolutions use by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
