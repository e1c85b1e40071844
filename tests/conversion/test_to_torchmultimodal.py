"""What `convert --to torchmultimodal` writes, says and refuses."""

import pytest
import torch

from flava_port import InvalidInput, convert_flava_checkpoint, convert_to_torchmultimodal
from tests.builders import tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.rules.grammar import tiny_torchmultimodal

pytestmark = pytest.mark.peers

NOTE = (
    "note     it computes the same in FLAVAPretrainingLoss(layer_norm_eps=1e-12, ignore_index=-100); "
    "that class's own defaults are 1e-5 and -1"
)


def _saved(state: dict, path):
    torch.save(state, path)
    return path


def test_the_summary_has_what_was_read_dropped_written_and_how_to_use_it(tiny, tmp_path):
    """Each has a line of its own."""
    written = convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt")
    lines = written.summary().splitlines()
    assert lines[0].startswith("read     flava.pt: ") and lines[-1] == NOTE
    assert any(line.startswith("dropped  ") for line in lines)
    assert f"wrote    {tmp_path / 'theirs.pt'}: {len(tiny_torchmultimodal())} keys" in lines


def test_encoders_alone_have_no_loss_to_speak_of(tiny, tmp_path):
    """Neither has a checkpoint that torchmultimodal made: the note on the loss is for the original's."""
    alone = convert_to_torchmultimodal(tiny.checkpoint, None, tmp_path / "model.pt", part="model")
    assert "FLAVAPretrainingLoss" not in alone.summary()
    assert_same_tensors(torch.load(tmp_path / "model.pt"), tiny_torchmultimodal(bare=True))
    again = convert_to_torchmultimodal(_saved(tiny_torchmultimodal(), tmp_path / "old.pt"), None, tmp_path / "new.pt")
    assert "FLAVAPretrainingLoss" not in again.summary()


def test_values_are_float32_unless_they_are_to_be_kept(tmp_path, tiny):
    """The summary warns of values that were rounded."""
    double = _saved(
        {key: value.double() if value.is_floating_point() else value for key, value in tiny_state_dict().items()}, tmp_path / "d.pt"
    )
    written = convert_to_torchmultimodal(double, tiny.codebook, tmp_path / "theirs.pt")
    assert "\nwarning  " in written.summary() and "float64 tensors are rounded to float32" in written.summary()
    assert_same_tensors(torch.load(tmp_path / "theirs.pt"), tiny_torchmultimodal())
    convert_to_torchmultimodal(double, tiny.codebook, tmp_path / "kept.pt", dtype="keep")
    assert torch.load(tmp_path / "kept.pt")["model.image_projection.bias"].dtype is torch.float64


def test_a_file_that_exists_stays_unless_replacing_it_is_asked_for(tiny, tmp_path):
    """`force` is off by default."""
    (tmp_path / "theirs.pt").write_text("mine")
    with pytest.raises(InvalidInput, match="already exists"):
        convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt")
    assert (tmp_path / "theirs.pt").read_text() == "mine"
    convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt", force=True)
    assert_same_tensors(torch.load(tmp_path / "theirs.pt"), tiny_torchmultimodal())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_no_source_is_replaced_by_what_is_made_of_it(tiny, tmp_path, which):
    """Not even `force` replaces the checkpoint, the codebook or the config."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    files = [
        _saved(tiny_state_dict(), tmp_path / "flava.pt"),
        _saved(tiny_codebook(), tmp_path / "codes.pt"),
        tmp_path / "hf" / "config.json",
    ]
    before = files[which].read_bytes()
    says = f"would delete .*{files[which].name}" if which < 2 else r"config\.json: checkpoints are written .* not as \.json"
    with pytest.raises(InvalidInput, match=says):
        convert_to_torchmultimodal(files[0], files[1], files[which], files[2], force=True)
    assert files[which].read_bytes() == before


def test_a_config_is_heeded(tiny, tmp_path):
    """A config that contradicts a shape stops the conversion."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 20', '"max_position_embeddings": 21'))
    with pytest.raises(Exception, match=r"max_position_embeddings = 21, but .* shows 20"):
        convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt", config)


def test_the_layout_is_what_was_named(tiny, tmp_path):
    """An original is refused where a torchmultimodal checkpoint was named."""
    with pytest.raises(InvalidInput, match="this is an original FLAVA checkpoint, where a torchmultimodal FLAVA checkpoint belongs"):
        convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt", layout="torchmultimodal")


def test_parts_that_torchmultimodal_has_no_checkpoint_for_are_refused(tiny, tmp_path):
    """The message names the part that it has one for."""
    with pytest.raises(InvalidInput, match="^--part image: torchmultimodal's checkpoints hold the whole model, or --part model$"):
        convert_to_torchmultimodal(tiny.checkpoint, None, tmp_path / "theirs.pt", part="image")


@pytest.mark.parametrize(("no_codebook", "codebook"), [(True, False), (False, True), (None, True)])
def test_a_codebook_is_left_out_insisted_on_or_taken_as_it_comes(tmp_path, no_codebook, codebook):
    """`no_codebook` says which."""
    source = _saved(tiny_torchmultimodal(), tmp_path / "old.pt")
    convert_to_torchmultimodal(source, None, tmp_path / "new.pt", no_codebook=no_codebook)
    assert any(key.startswith("image_codebook.") for key in torch.load(tmp_path / "new.pt")) is codebook


def test_a_codebook_that_is_not_there_cannot_be_insisted_on(tiny, tmp_path):
    """The message says what to pass."""
    with pytest.raises(InvalidInput, match="pass --codebook_path, or --no-codebook"):
        convert_to_torchmultimodal(tiny.checkpoint, None, tmp_path / "new.pt", no_codebook=False)


@pytest.mark.parametrize("keyword", ["max_shard_size", "head_layer_norm_eps", "codebook"])
def test_a_keyword_that_means_nothing_there_is_refused(tiny, tmp_path, keyword):
    """Options that only a folder has are not ignored without a word."""
    with pytest.raises(TypeError, match=rf"^convert_to_torchmultimodal\(\) got an unexpected keyword argument '{keyword}'$"):
        convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt", **{keyword: 1})
