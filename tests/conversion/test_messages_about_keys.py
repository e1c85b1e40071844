"""A message about a key says its name in the file, what is wrong with it, and the nearest key that is known."""

import json
import re
import shlex

import pytest
import torch

from flava_port import convert_flava_checkpoint
from flava_port.errors import InvalidInput, NotFaithful
from tests.builders import tiny_codebook, tiny_state_dict
from tests.rules.grammar import tiny_torchmultimodal


@pytest.fixture
def said(tiny, tmp_path):
    """The whole message for a state dict that is refused."""

    def of(state, codebook=None, **options) -> str:
        torch.save(state, tmp_path / "flava.pt")
        if codebook is not None:
            torch.save(codebook, tmp_path / "codes.pt")
        with pytest.raises(NotFaithful) as stopped:
            convert_flava_checkpoint(
                tmp_path / "flava.pt", None if codebook is None else tmp_path / "codes.pt", tmp_path / "out", **options
            )
        return str(stopped.value)

    return of


def test_a_key_that_rules_lead_nowhere_is_named_with_where_to_and_the_nearest(said):
    """The nearest key is one that the file could have, in the file's own layout."""
    assert said(tiny_state_dict() | {"mm_text_projection.biases": torch.ones(2)}) == (
        "cannot be converted faithfully:\n"
        "  unexpected mm_text_projection.biases (checkpoint, rule 8): becomes flava.text_to_mm_projection.biases, "
        "which the model has no place for; the nearest key is mm_text_projection.bias"
    )


def test_a_key_that_no_rule_knows_is_named_as_such(said):
    """No nearest key is named where none is near."""
    assert said(tiny_state_dict() | {"zzz": torch.ones(2)}) == (
        "cannot be converted faithfully:\n  unexpected zzz (checkpoint, no rule): the model has no place for it\n"
        "  leave out what is no part of the model: --drop zzz"
    )


def test_keys_side_by_side_are_left_out_by_one_flag_and_three_flags_are_named(said):
    """Two keys of one module by its name; a key alone by its own. The fourth flag is only counted."""
    more = ["head.out.weight", "head.out.bias", "head.scale", "zzz", "yyy"]
    assert said(tiny_state_dict() | {key: torch.ones(2, 2) for key in more}).splitlines()[-1] == (
        "  leave out what is no part of the model: --drop 'head.out.*' --drop head.scale --drop zzz ... and 1 more"
    )


def test_the_flags_that_leave_keys_out_do_so(tmp_path, run_command):
    """They are given as a shell takes them, and converting with them succeeds: keys side by side, alone, of no text, with signs of a glob."""
    more = ["head.weight", "head.bias", "other.weight", "zzz", "a b[1]*", 7]
    torch.save(tiny_state_dict() | {key: torch.ones(2, 2) for key in more}, tmp_path / "flava.pt")
    base = ["convert", "--checkpoint_path", tmp_path / "flava.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out"]
    flags: list[str] = []
    for _ in range(2):  # it names three at a time
        ran = run_command(*base, *flags)
        assert ran.status == 1
        words = shlex.split(ran.err.split("no part of the model: ")[1])
        flags += [word for at, word in enumerate(words) if "--drop" in (word, words[at - 1])]
    assert run_command(*base, *flags).status == 0, flags


def test_a_misspelt_key_is_named_with_the_one_that_it_should_be(said):
    """The nearest key stands with the misspelt one; the missing one is too far from it to name it in turn."""
    state = tiny_state_dict()
    state["mm_text_projektion.bias"] = state.pop("mm_text_projection.bias")
    assert said(state).splitlines()[1:] == [
        "  unexpected mm_text_projektion.bias (checkpoint, no rule): the model has no place for it; the nearest key is mm_text_projection.bias",
        "  missing mm_text_projection.bias: the checkpoint has no tensor for flava.text_to_mm_projection.bias, shape [64]",
    ]


def test_a_missing_key_with_a_like_one_to_spare_is_told_which(said):
    """The key to spare has its name in the file."""
    state = tiny_state_dict()
    state["image_projection.biases"] = state.pop("image_projection.bias")
    lines = said(state).splitlines()
    assert lines[-1] == (
        "  missing image_projection.bias: the checkpoint has no tensor for flava.image_projection.bias, shape [16]; "
        "the nearest key in the file is image_projection.biases"
    )


def test_a_missing_key_with_nothing_like_it_is_told_nothing_more(said):
    """A key that is in its place is not to spare."""
    state = tiny_state_dict()
    del state["image_projection.bias"]
    assert said(state).splitlines()[1:] == [
        "  missing image_projection.bias: the checkpoint has no tensor for flava.image_projection.bias, shape [16]"
    ]


@pytest.mark.parametrize("state", [tiny_state_dict, tiny_torchmultimodal])
def test_part_model_is_advised_where_there_are_no_heads_at_all(said, state):
    """The advice stands once, at the end; a checkpoint with one head, or a part that was asked for, gets none."""
    heads = ("heads.", "loss.")
    encoders = {key: value for key, value in state().items() if not key.startswith(heads)}
    codebook = tiny_codebook() if state is tiny_state_dict else None
    without = ", without --codebook_path," if codebook else ""
    advice = f"\n  there are no pretraining heads in it; --part model{without} converts the encoders alone"
    extra = {"classifier.weight": torch.ones(1)}
    assert said(encoders | extra, codebook).endswith(advice) and said(encoders | extra, codebook).count("--part model") == 1
    one = next(key for key in state() if "itm" in key)
    assert "--part model" not in said(encoders | {one: state()[one]}, codebook)
    part = {key: value for key, value in encoders.items() if "image_encoder" not in key}
    if codebook is None:
        message = said(part, part="image")
        assert "--part model" not in message and re.fullmatch(r"  \.\.\. and \d+ more", message.splitlines()[-1])


@pytest.mark.parametrize(
    ("change", "how"),
    [(torch.Tensor.half, "float16 [64] and float32 [64]"), (lambda t: t[:-1], "float32 [63] and float32 [64]")],
    ids=["dtype", "shape"],
)
def test_copies_of_another_dtype_or_shape_are_named_with_both(said, change, how):
    """The second copy comes first, then the one that would be kept."""
    state = tiny_state_dict()
    state["text_encoder.embeddings.LayerNorm.bias"] = change(state["text_encoder.embeddings.LayerNorm.bias"])
    assert said(state).splitlines()[1:] == [
        "  two copies that should be one differ: text_encoder.embeddings.LayerNorm.bias and text_encoder.module.embeddings.LayerNorm.bias, "
        + how
    ]


def test_copies_that_cannot_be_compared_are_named_as_such(said):
    """Two sparse tensors are not taken to be equal."""
    sparse = torch.eye(3).to_sparse()
    state = tiny_state_dict() | {f"text_encoder.{module}embeddings.LayerNorm.bias": sparse for module in ("", "module.")}
    kept = {key: value for key, value in state.items() if key != "text_encoder.module.embeddings.LayerNorm.bias"}
    assert said(state).splitlines()[1:] == [
        "  text_encoder.module.embeddings.LayerNorm.bias (checkpoint, rule 11) is a sparse tensor; "
        "convert it to a dense floating point tensor first"
    ]
    assert said(state, part="image").splitlines()[1:] == [
        "  two copies that should be one differ: text_encoder.embeddings.LayerNorm.bias and "
        "text_encoder.module.embeddings.LayerNorm.bias, both sparse, which cannot be compared"
    ]
    assert said(kept | {"text_encoder.module.embeddings.LayerNorm.bias": torch.ones(64)}).splitlines()[1:] == [
        "  two copies that should be one differ: text_encoder.embeddings.LayerNorm.bias and "
        "text_encoder.module.embeddings.LayerNorm.bias, sparse and float32 [64]"
    ]


def test_a_shape_that_does_not_fit_is_named_with_the_models_key_and_shape(said):
    """The message has both shapes."""
    state = tiny_state_dict() | {"mm_text_projection.bias": torch.ones(3)}
    assert said(state).splitlines()[1:] == [
        "  wrong shape: mm_text_projection.bias (checkpoint, rule 8) is [3], the model's flava.text_to_mm_projection.bias is [64]"
    ]


@pytest.mark.parametrize(
    ("lost", "named"),
    [("blocks.input.b", "missing blocks.input.b: "), ("model.image_projection.bias", "missing model.image_projection.bias: ")],
)
def test_each_files_missing_keys_are_named_as_that_file_would(said, lost, named):
    """Beside a torchmultimodal checkpoint, OpenAI's codebook has a layout of its own."""
    state, codebook = tiny_torchmultimodal(codebook=False), tiny_codebook()
    (codebook if lost in codebook else state).pop(lost)
    assert said(state, codebook).splitlines()[1].strip().startswith(named)


def test_what_is_dropped_is_said_with_its_reason_and_recorded_key_by_key(tiny, tmp_path):
    """Keys are dropped as second copies, as position_ids, or because they lie outside of a part."""

    def dropped(conversion) -> list[str]:
        return [line.removeprefix("dropped  ") for line in conversion.summary().splitlines() if line.startswith("dropped")]

    assert dropped(convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "whole")) == [
        "11 keys: second copies, each bit-equal to the one kept",
        "1 key: position_ids, which hold 0, 1, 2, ... and are recomputed",
    ]
    fates = json.loads((tmp_path / "whole" / "conversion.json").read_text())["sources"]["checkpoint"]["keys"]
    assert fates["text_encoder.module.embeddings.position_ids"] == {"dropped": "holds 0, 1, 2, ...; recomputed"}
    assert dropped(convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "text", part="text")) == [
        "6 keys: second copies, each bit-equal to the one kept",
        "1 key: position_ids, which hold 0, 1, 2, ... and are recomputed",
        "108 keys: outside of FlavaTextModel, and left out",
    ]


def test_encoders_alone_go_with_no_codebook(tiny, tmp_path):
    """A codebook is refused beside a part that was asked for, and beside encoders alone."""
    with pytest.raises(InvalidInput, match="^--part model has no codebook; leave out --codebook_path$"):
        convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out", part="model")
    torch.save(tiny_torchmultimodal(bare=True), tmp_path / "bare.pt")
    with pytest.raises(InvalidInput, match=r"^\S+bare\.pt: encoders alone go with no codebook; leave out --codebook_path$"):
        convert_flava_checkpoint(tmp_path / "bare.pt", tiny.codebook, tmp_path / "out")
    with pytest.raises(InvalidInput, match="^pass --codebook_path, or --no-codebook for a model without one$"):
        convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", no_codebook=False)
