"""One thread, and the authors' own code where it is installed."""

import importlib.util
import sys
import types

import pytest
import torch

GET_PEERS = "pip install 'flava-port[peers]' gets it (torchmultimodal and DALL-E with --no-deps, then what they import)"

STOCHASTIC_DEPTH = ("torchvision", "torchvision.ops", "torchvision.ops.stochastic_depth")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much of their time to them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def torchmultimodal() -> types.ModuleType:
    """Meta's public FLAVA. It imports torchvision for StochasticDepth, which FLAVA does not use."""
    with pytest.MonkeyPatch.context() as patch:  # the stand-in is gone before anyone else can look for torchvision
        if importlib.util.find_spec("torchvision") is None:
            stand_in = {name: types.ModuleType(name) for name in STOCHASTIC_DEPTH}
            stand_in[STOCHASTIC_DEPTH[-1]].StochasticDepth = torch.nn.Identity
            for name, module in stand_in.items():
                patch.setitem(sys.modules, name, module)
        try:
            import torchmultimodal.models.flava.model
        except ImportError as missing:
            pytest.skip(f"torchmultimodal cannot be imported ({missing}): {GET_PEERS}")
    return torchmultimodal


@pytest.fixture(scope="session")
def dall_e() -> types.ModuleType:
    """OpenAI's published image encoder."""
    try:
        import dall_e
    except ImportError as missing:
        pytest.skip(f"dall_e cannot be imported ({missing}): {GET_PEERS}")
    return dall_e
