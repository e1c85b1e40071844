"""OpenAI's encoder reads the same as a pickled module and as a state dict, and its classes are never imported."""

import sys

import pytest
import torch

from flava_port.files.checkpoint import open_checkpoint
from flava_port.files.torch_tensors import load
from flava_port.original.seeded import _dall_e_classes
from tests.builders import TINY_CODEBOOK, tiny_codebook
from tests.comparing import assert_same_tensors
from tests.files.reading import read


def test_the_pickled_module_holds_its_state_dict(tiny):
    """The keys are the module's, in its own order, and the values are equal bit for bit."""
    assert_same_tensors(read(tiny.codebook), tiny_codebook(), in_order=True)


def test_reading_the_pickled_module_imports_nothing(tiny):
    """The package dall_e is not imported, so it need not be installed."""
    before = set(sys.modules)
    checkpoint = open_checkpoint(tiny.codebook)
    assert checkpoint.module_class == "dall_e.encoder.Encoder"
    assert not {name for name in set(sys.modules) - before if name.startswith("dall_e")}


@pytest.mark.parametrize("name", ["model", "module", "state_dict"])
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # the legacy format looks for it; the classes have none
def test_a_pickled_module_may_be_nested(tiny, tmp_path, name, new_format):
    """A module is found in the same containers as a state dict, in both of torch's formats."""
    with _dall_e_classes():
        module = torch.load(tiny.codebook, weights_only=False)
        torch.save({name: module, "epoch": 1}, tmp_path / "nested.pkl", _use_new_zipfile_serialization=new_format)
    assert_same_tensors(read(tmp_path / "nested.pkl"), tiny_codebook(), in_order=True)


def test_buffers_that_a_module_does_not_save_are_left_out(tiny, tmp_path):
    """Non-persistent buffers and buffers that are None are left out, as `state_dict` leaves them out."""
    with _dall_e_classes() as (encoder_class, *_others):
        module = encoder_class()
        module.register_buffer("kept", torch.randn(2))
        module.register_buffer("left_out", torch.randn(2), persistent=False)
        module.register_buffer("absent", None)
        torch.save(module, tmp_path / "module.pkl")
        expected = dict(module.state_dict())
    assert_same_tensors(read(tmp_path / "module.pkl"), expected, in_order=True)


def test_a_module_that_stands_in_two_places_is_read_in_both(tiny, tmp_path):
    """A shared module has keys for each of its places, as in `state_dict`."""
    with _dall_e_classes() as (encoder_class, *_others):
        shared = torch.nn.Sequential(encoder_class())
        shared[0].w = torch.nn.Parameter(torch.randn(3))
        torch.save(torch.nn.Sequential(shared, shared), tmp_path / "shared.pkl")
    assert list(read(tmp_path / "shared.pkl")) == ["0.0.w", "1.0.w"]


def test_the_state_dict_converts_to_the_same_bytes_as_the_module(tiny, run_command, tmp_path):
    """`convert-codebook` writes the same weights from the pickled module and from its state dict."""
    torch.save(tiny_codebook(), tmp_path / "state_dict.pkl")
    for name, source in (("one", tiny.codebook), ("other", tmp_path / "state_dict.pkl")):
        ran = run_command("convert-codebook", "--checkpoint_path", source, "--pytorch_dump_folder_path", tmp_path / name)
        assert ran.status == 0, ran.err
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_sizes_of_the_tiny_codebook_show_in_what_is_read(tiny):
    """No tensor of the fixture is constant or equal to another, so a mix-up would show."""
    tensors = [load(tensor) for tensor in open_checkpoint(tiny.codebook).tensors.values()]
    assert all(tensor.std() > 0 for tensor in tensors) and len({tensor.sum().item() for tensor in tensors}) == len(tensors)
    assert tensors[0].shape[0] == TINY_CODEBOOK.hidden_size
