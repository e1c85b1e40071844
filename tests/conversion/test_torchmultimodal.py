"""A torchmultimodal checkpoint converts to the same weights as the original, however its file came about."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from flava_port import NotFaithful, convert_flava_checkpoint, convert_to_torchmultimodal, revert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import load
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from tests.builders import TINY_CODEBOOK, tiny_codebook, tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.rules.grammar import first_release, projection_itm_mp, remapped, side_by_side, tiny_torchmultimodal
from tests.strategies import original_codebook_configs, original_configs

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def expected(converted):
    """The weights that the original converts to."""
    return load_file(converted / "model.safetensors")


@pytest.fixture
def convert(run_command, tmp_path):
    """Writes a state dict, or whatever else a file holds, and converts it by the command: `convert(content, *flags)`."""

    def run(content, *flags):
        torch.save(content, tmp_path / "theirs.pt")
        return run_command("convert", "--checkpoint_path", tmp_path / "theirs.pt", "--pytorch_dump_folder_path", tmp_path / "out", *flags)

    return run


def written(tmp_path) -> dict[str, torch.Tensor]:
    return load_file(tmp_path / "out" / "model.safetensors")


LAYOUTS = {"today's": side_by_side, "first release": first_release, "remapped": remapped, "projection_itm_mp": projection_itm_mp}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_each_of_its_layouts_converts_to_the_originals_weights(convert, expected, tmp_path, names):
    """The weights are equal bit for bit, its codebook included, and the summary names the layout."""
    ran = convert(tiny_torchmultimodal(names))
    assert ran.status == 0, ran.err
    assert "a torchmultimodal FLAVA checkpoint" in ran.out and "for FlavaForPreTraining" in ran.out
    assert_same_tensors(written(tmp_path), expected)


WRAPPINGS = {
    "nested under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "nested under model": lambda state: {"model": state},
    "of Lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "global_step": 1},
    "of DistributedDataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "of both": lambda state: {f"module.model.{key}": value for key, value in state.items()},
    "of torch.compile": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "of FSDP": lambda state: {f"_fsdp_wrapped_module.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_what_trainers_wrap_around_it_comes_off(convert, expected, tmp_path, wrap):
    """Containers are opened, and prefixes that all keys share come off."""
    ran = convert(wrap(tiny_torchmultimodal()))
    assert ran.status == 0, ran.err
    assert_same_tensors(written(tmp_path), expected)


def test_a_half_precision_checkpoint_converts_and_keeps_its_dtype_if_asked(convert, tmp_path):
    """It is written in float32 by default."""
    half = {key: value.half() for key, value in tiny_torchmultimodal().items()}
    assert convert(half).status == 0
    names = {theirs: original for original, theirs in side_by_side(range(4)).items()}
    assert {value.dtype for value in written(tmp_path).values()} == {torch.float32}
    assert convert(half, "--dtype", "keep", "--force").status == 0
    kept = written(tmp_path)
    assert {value.dtype for value in kept.values()} == {torch.float16} and len(kept) == len(half) == len(names.keys() & half.keys())


def test_a_codebook_of_its_own_file_goes_with_one_that_has_none(convert, expected, tiny, tmp_path):
    """A checkpoint that holds its codebook takes no second one."""
    ran = convert(tiny_torchmultimodal(codebook=False), "--codebook_path", tiny.codebook)
    assert ran.status == 0, ran.err
    assert_same_tensors(written(tmp_path), expected)
    ran = convert(tiny_torchmultimodal(), "--codebook_path", tiny.codebook, "--force")
    assert ran.status == 2 and "holds its codebook already; leave out --codebook_path" in ran.err


def test_without_any_codebook_it_must_be_said(convert):
    """A checkpoint without one needs `--codebook_path` or `--no-codebook`, as the original does."""
    ran = convert(tiny_torchmultimodal(codebook=False))
    assert ran.status == 2 and "pass --codebook_path, or --no-codebook" in ran.err


def test_its_codebook_is_left_out_where_asked(convert, tmp_path):
    """The summary counts the keys that are left out."""
    ran = convert(tiny_torchmultimodal(), "--no-codebook")
    assert ran.status == 0 and f"dropped  {len(tiny_codebook())} keys: outside of FlavaForPreTraining without its codebook" in ran.out
    assert not any(key.startswith("image_codebook") for key in written(tmp_path))


FAULTS = {
    "a head is missing": (lambda s: s.pop("loss.mlm_loss.cls.dense.weight"), "missing loss.mlm_loss.cls.dense.weight"),
    "a key too many": (lambda s: s.update({"loss.mlm_loss.cls.more": torch.ones(2)}), "unexpected loss.mlm_loss.cls.more"),
    "a classifier": (lambda s: s.update({"classifier.model.0.weight": torch.ones(2, 2)}), "unexpected classifier.model.0.weight"),
    "a bias in two values": (
        lambda s: s.update({"loss.mim_loss.cls.bias": s["loss.mim_loss.cls.bias"] + 1}),
        "one bias under two keys differs: loss.mim_loss.cls.bias and loss.mim_loss.cls.decoder.bias",
    ),
    "a wrong shape": (lambda s: s.update({"model.image_projection.bias": torch.ones(3)}), "wrong shape: model.image_projection.bias"),
    "positions that do not count up": (
        lambda s: s.update({"model.text_encoder.embeddings.position_ids": torch.zeros(1, 20, dtype=torch.int64)}),
        "model.text_encoder.embeddings.position_ids does not hold 0, 1, 2",
    ),
    "old and new name of one key": (
        lambda s: s.update({"model.text_encoder.embeddings.LayerNorm.bias": s["model.text_encoder.embeddings.layer_norm.bias"]}),
        "both become flava.text_model.embeddings.LayerNorm.bias",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_stops_it_by_the_keys_name_in_torchmultimodal(convert, tmp_path, spoil, message):
    """The message has torchmultimodal's names, not the original's, and nothing is written."""
    state = tiny_torchmultimodal()
    spoil(state)
    ran = convert(state)
    assert ran.status == 1 and message in ran.err, ran.err
    assert not (tmp_path / "out").exists()


def test_without_any_heads_it_says_what_would_convert(convert, tmp_path):
    """A fine-tuned classifier converts with `--part model`, and the message says so."""
    state = {key: value for key, value in tiny_torchmultimodal(codebook=False).items() if not key.startswith("loss.")}
    state["classifier.model.0.weight"] = torch.ones(2, 64)
    ran = convert(state, "--no-codebook")
    assert ran.status == 1 and "--part model converts the encoders alone" in ran.err
    ran = convert(state, "--part", "model")
    assert ran.status == 0 and "dropped  1 key: outside of FlavaModel, and left out: classifier.model.0.weight" in ran.out
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["sources"]["checkpoint"]["keys"]["classifier.model.0.weight"]


def test_the_record_has_the_fate_of_every_key_under_its_own_name(convert, tmp_path):
    """The record also says what torchmultimodal's code computes differently."""
    state = tiny_torchmultimodal(first_release)
    assert convert(state).status == 0
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    fates = record["sources"]["checkpoint"]["keys"]
    assert set(fates) == set(state)
    assert fates["loss.contrastive_loss.image_projection.bias"] == {"target": "flava.image_projection.bias"}
    assert record["made_by"]["name"] == "torchmultimodal" and record["made_by"]["head_layer_norm_eps"] == 1e-5
    assert any("1e-05" in line for line in record["differs"])


@st.composite
def models(draw):
    """A config for a model and its codebook, and a seed."""
    return draw(original_configs(one_width=True)), draw(original_codebook_configs()), draw(st.integers(0, 999))


@settings(max_examples=5)
@given(models())
def test_round_trips_through_all_three_layouts_are_the_identity(tmp_path_factory, model):
    """Round original, torchmultimodal and Hugging Face in either direction, the files are the same to the bit."""
    config, codebook, seed = model
    folder = tmp_path_factory.mktemp("trip")
    start, codes = folder / "flava.pt", folder / "codes.pt"
    write_torch_zip(start, seeded_state_dict(config, seed))
    write_torch_zip(codes, seeded_codebook(codebook, seed))

    convert_to_torchmultimodal(start, codes, folder / "theirs.pt")
    convert_flava_checkpoint(folder / "theirs.pt", None, folder / "hf")
    revert_flava_checkpoint(folder / "hf", folder / "back.pt", folder / "back_codes.pt")

    convert_flava_checkpoint(start, codes, folder / "hf2")
    revert_flava_checkpoint(folder / "hf2", folder / "theirs2.pt", None, to="torchmultimodal")
    revert_flava_checkpoint(folder / "theirs2.pt", folder / "back2.pt", folder / "back2_codes.pt")

    for back in ("back", "back2"):
        assert_same_tensors(torch.load(folder / f"{back}.pt"), {k: load(t) for k, t in seeded_state_dict(config, seed).items()})
        assert_same_tensors(torch.load(folder / f"{back}_codes.pt"), {k: load(t) for k, t in seeded_codebook(codebook, seed).items()})
    assert (folder / "theirs.pt").read_bytes() == (folder / "theirs2.pt").read_bytes()
    assert (folder / "hf" / "model.safetensors").read_bytes() == (folder / "hf2" / "model.safetensors").read_bytes()


def test_what_is_written_for_torchmultimodal_is_its_own_state_dict(tiny, tmp_path):
    """It has its names and no others, and both keys of a head's bias are one storage."""
    convert_to_torchmultimodal(tiny.checkpoint, tiny.codebook, tmp_path / "theirs.pt")
    written = torch.load(tmp_path / "theirs.pt", weights_only=True)
    assert_same_tensors(written, tiny_torchmultimodal())
    assert written["loss.mlm_loss.cls.bias"].data_ptr() == written["loss.mlm_loss.cls.decoder.bias"].data_ptr()


def test_to_torchmultimodal_wants_a_file_and_no_second_codebook(run_command, tiny, tmp_path):
    """Options and files that do not go with it are refused."""
    files = ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook]
    for flag in (["--verify"], ["--max-shard-size", "1GB"], ["--part", "image"]):
        ran = run_command("convert", *files, "--to", "torchmultimodal", "--pytorch_dump_folder_path", tmp_path / "x.pt", *flag)
        assert ran.status == 2 and not list(tmp_path.iterdir()), flag
    folder = tmp_path / "hf"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    ran = run_command(
        "revert",
        "--converted_path",
        folder,
        "--to",
        "torchmultimodal",
        "--checkpoint_path",
        tmp_path / "t.pt",
        "--codebook_path",
        tmp_path / "c.pt",
    )
    assert ran.status == 2 and "holds its codebook" in ran.err
    assert run_command("revert", "--converted_path", folder, "--to", "torchmultimodal", "--checkpoint_path", tmp_path / "t.pt").status == 0
    ran = run_command("revert", "--converted_path", tmp_path / "t.pt", "--to", "torchmultimodal", "--checkpoint_path", tmp_path / "u.pt")
    assert ran.status == 2 and "already" in ran.err


def test_a_scale_that_torchmultimodal_would_clamp_is_kept_and_said(convert, tmp_path):
    """transformers 5 clamps it in training only."""
    state = tiny_torchmultimodal()
    state["loss.contrastive_loss.logit_scale"] = torch.tensor(5.0)
    ran = convert(state)
    assert ran.status == 0 and "differs  flava.logit_scale is 5: torchmultimodal clamps it to [0.0, 4.6052]" in ran.out
    assert written(tmp_path)["flava.logit_scale"] == 5.0


def test_heads_of_the_encoders_epsilon_leave_nothing_to_differ(convert):
    """Where transformers can express what the source computed, nothing is said to differ."""
    ran = convert(tiny_torchmultimodal(), "--head-layer-norm-eps", "1e-12")
    assert ran.status == 0 and "differs" not in ran.out


def test_an_image_encoder_without_a_mask_token_is_no_error(convert, tmp_path):
    """torchmultimodal makes one with `use_image_masking=False`, and the config then says so."""
    state = tiny_torchmultimodal()
    del state["model.image_encoder.embeddings.mask_token"]
    assert convert(state, "--part", "model").status == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_config"]["mask_token"] is False


def test_the_original_without_a_mask_token_is_still_refused(tmp_path):
    """The original's code always makes one."""
    state = {key: value for key, value in tiny_state_dict().items() if "mask_token" not in key}
    torch.save(state, tmp_path / "flava.pt")
    with pytest.raises(NotFaithful, match=r"missing image_encoder\.module\.embeddings\.mask_token"):
        convert_flava_checkpoint(tmp_path / "flava.pt", None, tmp_path / "out")


def test_a_tiny_codebook_is_read_out_of_the_checkpoint(convert, tmp_path):
    """Its sizes are read from its shapes too."""
    assert convert(tiny_torchmultimodal()).status == 0
    codebook = json.loads((tmp_path / "out" / "config.json").read_text())["image_codebook_config"]
    assert (codebook["hidden_size"], codebook["vocab_size"]) == (TINY_CODEBOOK.hidden_size, TINY_CODEBOOK.vocab_size)
