"""A file is recognised by its keys, whatever its layout; one in another than belongs there is refused by name."""

import pytest
import torch
from safetensors.torch import load_file

from flava_port.errors import InvalidInput
from flava_port.files.checkpoint import read_content
from flava_port.reading.finding import Wish, find_model
from flava_port.rules.layouts import LAYOUTS_BY_NAME, Layout
from tests.builders import tiny_codebook, tiny_state_dict
from tests.refusal import UNREADABLE, assert_one_short_message, assert_refused, listing
from tests.rules.grammar import tiny_torchmultimodal


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


@pytest.mark.parametrize(("state", "layout"), STATES.values(), ids=STATES)
def test_every_layout_of_flava_is_recognised_by_its_keys(converted, tmp_path, state, layout):
    """The layout is the one that most keys speak for, once the prefix that all of them share is off."""
    torch.save(state(converted), tmp_path / "some.pt")
    if layout is Layout.UNKNOWN:
        with pytest.raises(InvalidInput, match=layout.value):
            find_model(read_content(tmp_path / "some.pt"), list(Layout), Wish())
    else:
        assert find_model(read_content(tmp_path / "some.pt"), list(Layout), Wish()).layout is layout


CONVERTED = (Layout.ORIGINAL, Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL, Layout.HUGGING_FACE)
CODEBOOKS = (Layout.DALLE, Layout.HUGGING_FACE_CODEBOOK)


@pytest.mark.parametrize("name", [name for name, (_, layout) in STATES.items() if layout not in CONVERTED])
def test_nothing_else_passes_for_a_checkpoint_to_convert(run_command, tiny, converted, tmp_path, name):
    """The message says what the file is, what belongs there, and some of its keys."""
    state, layout = STATES[name]
    torch.save(state(converted), tmp_path / "wrong.pt")
    message = assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "wrong.pt", codebook=tiny.codebook)
    assert f"this is {layout.value}, where {Layout.ORIGINAL.value} or {Layout.TORCHMULTIMODAL.value} belongs" in message


@pytest.mark.parametrize("name", [name for name, (_, layout) in STATES.items() if layout in CONVERTED])
@pytest.mark.parametrize("asked", ["original", "torchmultimodal"])
def test_a_layout_that_is_named_must_be_the_files_own(run_command, converted, tmp_path, name, asked):
    """`--from` does not overrule what the keys say."""
    state, layout = STATES[name]
    if layout in LAYOUTS_BY_NAME[asked]:
        return
    torch.save(state(converted), tmp_path / "some.pt")
    message = assert_refused(run_command, tmp_path, UNREADABLE, tmp_path / "some.pt", "--from", asked, "--no-codebook")
    wanted = Layout.ORIGINAL if asked == "original" else Layout.TORCHMULTIMODAL
    assert f"this is {layout.value}, where {wanted.value} belongs" in message


@pytest.mark.parametrize("name", [name for name, (_, layout) in STATES.items() if layout not in CODEBOOKS])
def test_no_other_layout_passes_for_a_codebook(run_command, tiny, converted, tmp_path, name):
    """A file that is no DALL-E encoder is refused as a codebook, beside a checkpoint and on its own."""
    state, layout = STATES[name]
    torch.save(state(converted), tmp_path / "wrong.pt")
    expected = f"this is {layout.value}, where {Layout.DALLE.value} belongs"
    assert expected in assert_refused(run_command, tmp_path, UNREADABLE, tiny.checkpoint, codebook=tmp_path / "wrong.pt")
    ran = run_command(
        *("convert-codebook", "--checkpoint_path", tmp_path / "wrong.pt"), *("--pytorch_dump_folder_path", tmp_path / "place" / "out")
    )
    assert ran.status == UNREADABLE and expected in ran.err and not listing(tmp_path / "place")
    assert_one_short_message(ran.err)


def test_the_two_files_given_the_wrong_way_round_are_told_apart(run_command, tiny, tmp_path):
    """The message names the codebook that stands in the checkpoint's place."""
    message = assert_refused(run_command, tmp_path, UNREADABLE, tiny.codebook, codebook=tiny.checkpoint)
    assert f"{tiny.codebook}: this is {Layout.DALLE.value}" in message


@pytest.mark.parametrize("name", ["original", "torchmultimodal"])
def test_revert_refuses_folders_of_other_weights(run_command, converted, tmp_path, name):
    """The message says what the weights are, and nothing is written."""
    state, layout = STATES[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_bytes((converted / "config.json").read_bytes())
    torch.save(state(converted), tmp_path / "folder" / "pytorch_model.bin")
    place = tmp_path / "place"
    ran = run_command(
        *("revert", "--converted_path", tmp_path / "folder"),
        *("--checkpoint_path", place / "flava.pt", "--codebook_path", place / "encoder.pkl"),
    )
    assert ran.status == UNREADABLE and f"this is {layout.value}" in ran.err and not place.exists()
    assert_one_short_message(ran.err)
