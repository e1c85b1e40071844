"""`repair` rewrites a folder that any release saved in the one form that loads right in all of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flava_port import convert_flava_checkpoint
from flava_port.errors import InvalidInput
from flava_port.files.owned import RECORD
from flava_port.repair import repair_model_folder
from tests.builders import from_pretrained, loaded_weights
from tests.conversion import repair_forms as forms
from tests.conversion.repair_forms import WEIGHTS

# Who leaves a folder so, and what the repair says of it.
FORMS = {
    "4.35 to 4.57: decoder.bias left out": (forms.without(1), "mim_head.decoder.bias added, equal to its other key"),
    "5.1 and later: bias left out": (forms.without(0), "mim_head.bias added, equal to its other key"),
    "5.0.0, of a folder with bias alone": (forms.zero(1), "mim_head.decoder.bias was zero, as releases leave it that do not tie it to mim_head.bias; it is equal to that again"),
    "5.0.0, of a folder with decoder.bias alone": (forms.zero(0), "mim_head.bias was zero, as releases leave it that do not tie it to mim_head.decoder.bias; it is equal to that again"),
    "up to 4.30.2: position_ids": (forms.with_position_ids(), "position_ids left out"),
    "5.0 to 5.3: gamma and beta": (forms.edited(forms.old_names), "under another release's names, such as flava.text_model.embeddings.LayerNorm.beta: renamed"),
    "up to 4.34: pickled": (forms.pickled, "pytorch_model.bin: pickled weights, written as safetensors"),
    "no format in the metadata": (forms.no_format, "the weights' metadata has no format"),
    "a config with an int where a float belongs": (forms.loose_config, "config.json: itm_weight, mim_weight, tie_word_embeddings spelled out"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_it_was_converted_to(form, folder, converted):
    """The weights are the same bytes, the config says the same, and what else lay there stays."""
    change, says = FORMS[form]
    change(folder)
    repaired = repair_model_folder(folder)
    assert says in repaired.summary().replace("config.json: mim_weight, itm_weight", "config.json: itm_weight, mim_weight")
    assert (folder / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()
    assert json.loads((folder / "config.json").read_text()) == json.loads((converted / "config.json").read_text())
    assert (folder / "notes.md").read_text() == "mine" and (folder / "more" / "vocab.txt").read_text() == "word"
    kept = {path.name for path in converted.iterdir()} | {"notes.md", "more"}
    assert {path.name for path in folder.iterdir()} == kept


def test_a_key_that_the_index_of_several_files_leaves_out_is_added(folder, converted):
    """Releases read only what the index names, though the key lies in one of the files."""
    forms.in_two(folder)
    repair_model_folder(folder)
    assert (folder / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()
    assert not list(folder.glob("model-*")) and not list(folder.glob("*.index.json"))


def test_a_key_that_an_index_forgets_is_named_in_it_again(folder, converted):
    """So is one that is no bias of a head."""
    forms.in_two(folder)
    index = folder / f"{WEIGHTS}.index.json"
    names = json.loads(index.read_text())["weight_map"]
    del names["flava.logit_scale"]
    index.write_text(json.dumps({"weight_map": names}))
    assert (
        "1 key that model.safetensors.index.json leaves out, such as flava.logit_scale: named there"
        in repair_model_folder(folder).summary()
    )
    assert (folder / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()


def test_what_the_installed_release_saves_is_repaired(converted, tmp_path):
    """Whatever the release leaves out, the repaired folder loads with the same values."""
    from_pretrained(converted).save_pretrained(tmp_path / "saved")
    repair_model_folder(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()
    expected = loaded_weights(converted)
    assert all(torch.equal(value, expected[key]) for key, value in loaded_weights(tmp_path / "saved").items())


def test_a_folder_in_the_right_form_is_left_as_it_is(folder):
    """Not one file is written."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "nothing was changed" in repair_model_folder(folder).summary()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_elsewhere_the_folder_stays_as_it_was(folder, tmp_path):
    """`repaired_path` makes another folder, and replaces none."""
    forms.without(1)(folder)
    before = (folder / WEIGHTS).read_bytes()
    repair_model_folder(folder, tmp_path / "new")
    assert (folder / WEIGHTS).read_bytes() == before and (tmp_path / "new" / "more" / "vocab.txt").exists()
    with pytest.raises(InvalidInput, match="already exists"):
        repair_model_folder(folder, tmp_path / "new")


def test_a_model_that_was_never_trained_may_have_zeros(run_command, folder):
    """`--keep-zero-biases` takes them for what they are."""
    forms.zero(0)(folder)
    forms.zero(1)(folder)
    forms.without(1)(folder)
    ran = run_command("repair", "--converted_path", folder, "--keep-zero-biases")
    assert ran.status == 0 and "proven" in ran.out
    assert all(key in load_file(folder / WEIGHTS) for pair in forms.TIED for key in pair)


def test_encoders_alone_are_repaired_too(tiny, tmp_path):
    """A folder of `FlavaModel`'s keeps its own keys."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="model")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    forms.no_format(tmp_path / "out")
    repair_model_folder(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_positions_of_the_encoders_alone_are_left_out_too(tiny, tmp_path):
    """A `FlavaModel` of 4.30.2 names them without the whole model's prefix."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="model")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    forms.with_position_ids("text_model.embeddings.position_ids")(tmp_path / "out")
    assert "position_ids left out" in repair_model_folder(tmp_path / "out").summary()
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_the_record_of_the_conversion_stays_true(run_command, tiny, folder):
    """`verify` proves the repaired folder, with the record that lies in it."""
    forms.without(0)(folder)
    repair_model_folder(folder)
    assert (folder / RECORD).exists()
    ran = run_command(
        "verify", "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", folder, "--weights-only"
    )
    assert ran.status == 0, ran.out


def test_a_dtype_that_is_said_twice_is_said_once(folder):
    """Releases read one name or the other."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert "config.json: dtype left out, which other fields say" in repair_model_folder(folder).summary()
    assert json.loads((folder / "config.json").read_text()) == config


def _links(folder: Path) -> None:
    """In a hub's cache files are links, and so may a folder be."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / "notes.md").rename(blobs / "notes")
    (folder / "notes.md").symlink_to("../blobs/notes")
    (folder / "up").symlink_to("..")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_links_lead_where_they_led_and_no_folder_is_copied_through_one(folder, tmp_path, elsewhere):
    """This holds in place and elsewhere."""
    _links(folder)
    forms.without(1)(folder)
    target = tmp_path / "new" if elsewhere else folder
    repair_model_folder(folder, target if elsewhere else None)
    assert (target / "notes.md").read_text() == "mine"
    assert (target / "up").is_symlink() and (target / "up").resolve() == tmp_path.resolve()


def test_who_may_read_it_stays(folder):
    """A private folder's weights do not become everybody's."""
    forms.without(1)(folder)
    for path, mode in ((folder, 0o700), (folder / WEIGHTS, 0o600), (folder / "config.json", 0o640), (folder / "notes.md", 0o604)):
        path.chmod(mode)
    repair_model_folder(folder)
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / WEIGHTS, folder / "config.json", folder / "notes.md")]
    assert modes == [0o700, 0o600, 0o640, 0o604]
