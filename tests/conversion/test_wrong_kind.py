"""A file of weights that is not the one asked for is recognised and named, with what belongs there."""

import pytest
import torch
from safetensors.torch import load_file

from flava_port.files.checkpoint import open_checkpoint
from flava_port.rules.layouts import Layout, recognise
from tests.builders import tiny_codebook, tiny_state_dict
from tests.refusal import UNREADABLE, assert_one_short_message, assert_refused, listing
from tests.rules.grammar import tiny_torchmultimodal


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint's weights as they are after conversion, without and with the codebook."""
    from flava_port.convert import convert_flava_checkpoint

    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


def _hugging_face(converted, *, prefix: str = "", only: str = ""):
    state = load_file(converted / "model.safetensors")
    return {prefix + key.removeprefix(only): tensor for key, tensor in state.items() if key.startswith(only)}


STATES = {
    "original": (lambda _: tiny_state_dict(), Layout.ORIGINAL),
    "converted": (_hugging_face, Layout.HUGGING_FACE),
    "converted, wrapped": (lambda folder: _hugging_face(folder, prefix="module."), Layout.HUGGING_FACE),
    "converted, without heads": (lambda folder: _hugging_face(folder, only="flava."), Layout.HUGGING_FACE),
    "torchmultimodal": (lambda _: tiny_torchmultimodal(), Layout.TORCHMULTIMODAL),
    "torchmultimodal, its model alone": (lambda _: tiny_torchmultimodal(bare=True), Layout.TORCHMULTIMODAL_MODEL),
    "DALL-E": (lambda _: tiny_codebook(), Layout.DALLE),
    "DALL-E, wrapped": (lambda _: {f"encoder.{key}": tensor for key, tensor in tiny_codebook().items()}, Layout.DALLE),
    "converted codebook": (lambda folder: _hugging_face(folder, only="image_codebook."), Layout.HUGGING_FACE_CODEBOOK),
    "another model": (lambda _: torch.nn.TransformerEncoderLayer(4, 2).state_dict(), Layout.UNKNOWN),
}


@pytest.mark.parametrize(("state", "kind"), STATES.values(), ids=STATES)
def test_every_layout_of_flava_is_recognised_by_its_keys(converted, tmp_path, state, kind):
    """By what most of them say, once the prefix is off that all of them share."""
    torch.save(state(converted), tmp_path / "some.pt")
    assert recognise(open_checkpoint(tmp_path / "some.pt").tensors) is kind


CONVERTED = (Layout.ORIGINAL, Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL)


@pytest.mark.parametrize("name", [name for name, (_, kind) in STATES.items() if kind not in CONVERTED])
def test_nothing_else_passes_for_a_checkpoint_to_convert(run_command, tiny, converted, tmp_path, name):
    """The message says what it is, what belongs there, and some of its keys."""
    state, kind = STATES[name]
    torch.save(state(converted), tmp_path / "wrong.pt")
    message = assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "wrong.pt", codebook=tiny.codebook)
    assert f"this is {kind.value}, where {Layout.ORIGINAL.value} or {Layout.TORCHMULTIMODAL.value} belongs" in message


@pytest.mark.parametrize("name", [name for name, (_, kind) in STATES.items() if kind in CONVERTED])
@pytest.mark.parametrize("layout", ["original", "torchmultimodal"])
def test_a_layout_that_is_named_must_be_the_files_own(run_command, converted, tmp_path, name, layout):
    """`--from` takes nothing on trust."""
    state, kind = STATES[name]
    if (kind is Layout.ORIGINAL) == (layout == "original"):
        return
    torch.save(state(converted), tmp_path / "some.pt")
    message = assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "some.pt", "--from", layout, "--no-codebook")
    wanted = Layout.ORIGINAL if layout == "original" else Layout.TORCHMULTIMODAL
    assert f"this is {kind.value}, where {wanted.value} belongs" in message


@pytest.mark.parametrize("name", [name for name, (_, kind) in STATES.items() if kind is not Layout.DALLE])
def test_no_other_layout_passes_for_a_codebook(run_command, tiny, converted, tmp_path, name):
    """Neither beside a checkpoint nor on its own."""
    state, kind = STATES[name]
    torch.save(state(converted), tmp_path / "wrong.pt")
    expected = f"this is {kind.value}, where {Layout.DALLE.value} belongs"
    assert expected in assert_refused(run_command, tmp_path, UNREADABLE, tiny.checkpoint, codebook=tmp_path / "wrong.pt")
    ran = run_command(
        *("convert-codebook", "--checkpoint_path", tmp_path / "wrong.pt"), *("--pytorch_dump_folder_path", tmp_path / "place" / "out")
    )
    assert ran.status == UNREADABLE and expected in ran.err and not listing(tmp_path / "place")
    assert_one_short_message(ran.err)


def test_the_two_files_given_the_wrong_way_round_are_told_apart(run_command, tiny, tmp_path):
    """The first of them is named."""
    message = assert_refused(run_command, tmp_path, UNREADABLE, tiny.codebook, codebook=tiny.checkpoint)
    assert f"{tiny.codebook}: this is {Layout.DALLE.value}" in message


def test_a_converted_folder_given_as_the_checkpoint_is_refused(run_command, converted, tmp_path):
    """A folder, and the safetensors file in it."""
    assert "is a folder" in assert_refused(run_command, tmp_path, UNREADABLE, converted)
    (tmp_path / "second").mkdir()
    message = assert_refused(run_command, tmp_path / "second", UNREADABLE, converted / "model.safetensors")
    assert Layout.HUGGING_FACE.value in message


@pytest.mark.parametrize("name", ["original", "torchmultimodal", "converted codebook"])
def test_revert_refuses_folders_of_other_weights(run_command, converted, tmp_path, name):
    """It names what they are and writes nothing."""
    state, kind = STATES[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_bytes((converted / "config.json").read_bytes())
    torch.save(state(converted), tmp_path / "folder" / "pytorch_model.bin")
    place = tmp_path / "place"
    ran = run_command(
        *("revert", "--converted_path", tmp_path / "folder"),
        *("--checkpoint_path", place / "flava.pt", "--codebook_path", place / "encoder.pkl"),
    )
    assert ran.status == UNREADABLE and f"this is {kind.value}" in ran.err and not place.exists()
    assert_one_short_message(ran.err)
