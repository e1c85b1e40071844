"""What importing the authors' own code takes."""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

GET_PEERS = (
    "tox -e peers runs these tests; the extra flava-port[peers] has what they need "
    "(install torchmultimodal-nightly and DALL-E with --no-deps, then attrs, requests, iopath and ftfy)"
)

STOCHASTIC_DEPTH = ("torchvision", "torchvision.ops", "torchvision.ops.stochastic_depth")


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Lets torchmultimodal be imported without torchvision, which it needs for StochasticDepth alone; FLAVA does not use that."""
    with pytest.MonkeyPatch.context() as patch:  # the stand-in is gone before anyone else can look for torchvision
        if importlib.util.find_spec("torchvision") is None:
            stand_in = {name: types.ModuleType(name) for name in STOCHASTIC_DEPTH}
            stand_in[STOCHASTIC_DEPTH[-1]].StochasticDepth = torch.nn.Identity
            for name, module in stand_in.items():
                patch.setitem(sys.modules, name, module)
        yield
