"""One thread, the authors' own code where it is installed, and the mark of the tests that go with it."""

import types
from pathlib import Path

import pytest
import torch

from tests.original.peers import GET_PEERS, stand_in_for_torchvision


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is one of those that run beside the authors' own code."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("peers")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Runs torch on one thread: tiny tensors gain nothing from more, and lose much time to them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def torchmultimodal() -> types.ModuleType:
    """Meta's public FLAVA."""
    with stand_in_for_torchvision():
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
