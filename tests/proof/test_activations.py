"""The reference computes every activation that a config may name and transformers has, but for those with weights of their own."""

import pytest
import torch

from flava_port.original.config import ACTIVATIONS, GELUS_BY_TANH

WITH_WEIGHTS = {"prelu", "xielu"}
ROUNDINGS = 16 * torch.finfo(torch.float64).eps  # a few operations, of values up to 8


def theirs() -> dict:
    from transformers.activations import ACT2FN

    return {name: ACT2FN[name] for name in ACT2FN if name not in WITH_WEIGHTS}


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"selu"}))
def test_an_activation_is_the_one_of_transformers_by_that_name(name):
    """To rounding, from -8 to 8; releases that lack the name are left out."""
    functions = theirs()
    if name not in functions:
        pytest.skip(f"this release of transformers has no {name}")
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    expected = functions[name](x)
    assert float((ACTIVATIONS[name](x) - expected).abs().max()) <= ROUNDINGS * float(expected.abs().max().clamp(min=1))


def test_gelu_is_never_planted_in_place_of_itself():
    """All that are GELU by tanh are one function but for a constant's last digits, and plainly another than by erf."""
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    exact = ACTIVATIONS["gelu"](x)
    assert all(float((activation(x) - exact).abs().max()) > 1e-5 for activation in GELUS_BY_TANH.values())
