"""A folder that any release of transformers saved is rewritten in the form that loads right everywhere, or what it lost is said."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava_port import convert_flava_checkpoint
from flava_port.errors import InvalidInput, NotFaithful
from flava_port.files.model_folder import RECORD
from flava_port.repair import repair_model_folder
from flava_port.target.keys import POSITION_IDS, TIED
from tests.builders import from_pretrained, loaded_weights

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once: the form that loads right everywhere."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


def _without(which: int):
    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        save_file(
            {key: value for key, value in state.items() if key not in {pair[which] for pair in TIED}}, folder / WEIGHTS, {"format": "pt"}
        )

    return change


def _edited(edit):
    def change(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS, {"format": "pt"})

    return change


def _zero(which: int):
    return _edited(lambda state: state.update({pair[which]: torch.zeros_like(state[pair[which]]) for pair in TIED}))


def _old_names(state: dict) -> None:
    for key in [key for key in state if "LayerNorm" in key]:
        state[key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(key)


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def _in_two(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: value for key, value in state.items() if names[key] == name}, folder / name, {"format": "pt"})
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"weight_map": {key: name for key, name in names.items() if "decoder.bias" not in key}})
    )
    (folder / WEIGHTS).unlink()


def _no_format(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


def _loose_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"mim_weight": 1, "tie_word_embeddings": False}
    del config["itm_weight"]
    (folder / "config.json").write_text(json.dumps(config))


# Who leaves a folder so, and what the repair says of it. `converted` is taken apart in the same way.
FORMS = {
    "4.35 to 4.57: decoder.bias left out": (_without(1), "mim_head.decoder.bias added, equal to its other key"),
    "5.1 and later: bias left out": (_without(0), "mim_head.bias added, equal to its other key"),
    "5.0.0, of a folder with bias alone": (_zero(1), "mim_head.decoder.bias was zero, as a release leaves it that does not tie it; it is mim_head.bias again"),
    "5.0.0, of a folder with decoder.bias alone": (_zero(0), "mim_head.bias was zero, as a release leaves it that does not tie it; it is mim_head.decoder.bias again"),
    "up to 4.30.2: position_ids": (_edited(lambda state: state.update({POSITION_IDS: torch.arange(20)[None]})), "position_ids left out"),
    "5.0 to 5.3: gamma and beta": (_edited(_old_names), "under another release's names, such as flava.text_model.embeddings.LayerNorm.beta: renamed"),
    "up to 4.34: pickled": (_pickled, "pytorch_model.bin: pickled weights, written as safetensors"),
    "no format in the metadata": (_no_format, "the weights' metadata has no format"),
    "a config with an int where a float belongs": (_loose_config, "config.json: itm_weight, mim_weight, tie_word_embeddings spelled out"),
}  # fmt: skip


@pytest.fixture
def folder(converted, tmp_path):
    """A copy of the converted folder, with a file that is no weights and a folder beside."""
    import shutil

    copy = tmp_path / "folder"
    shutil.copytree(converted, copy)
    (copy / "notes.md").write_text("mine")
    (copy / "more").mkdir()
    (copy / "more" / "vocab.txt").write_text("word")
    return copy


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_it_was_converted_to(form, folder, converted):
    """The same bytes of weights, a config that says the same; what else lay there stays."""
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
    """Releases read what the index names; it lies in one of the files all the same."""
    _in_two(folder)
    repair_model_folder(folder)
    assert (folder / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()
    assert not list(folder.glob("model-*")) and not list(folder.glob("*.index.json"))


def test_what_the_installed_release_saves_is_repaired(converted, tmp_path):
    """Whatever it leaves out; it loads with the same values."""
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
    """--repaired_path makes another."""
    _without(1)(folder)
    before = (folder / WEIGHTS).read_bytes()
    repair_model_folder(folder, tmp_path / "new")
    assert (folder / WEIGHTS).read_bytes() == before and (tmp_path / "new" / "more" / "vocab.txt").exists()
    with pytest.raises(InvalidInput, match="already exists"):
        repair_model_folder(folder, tmp_path / "new")


def test_what_is_lost_already_is_said_and_nothing_is_written(run_command, folder):
    """All four biases zero under both keys: as 4.43 to 4.50 leave a folder that has decoder.bias alone."""
    _zero(0)(folder)
    _zero(1)(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ran = run_command("repair", "--converted_path", folder, "--quiet")
    assert ran.status == 1
    assert "mim_head.bias, mlm_head.bias, mmm_image_head.bias, mmm_text_head.bias are zero throughout: lost already" in ran.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_model_that_was_never_trained_may_have_zeros(run_command, folder):
    """With the flag that says so."""
    _zero(0)(folder)
    _zero(1)(folder)
    _without(1)(folder)
    ran = run_command("repair", "--converted_path", folder, "--keep-zero-biases")
    assert ran.status == 0 and "proven" in ran.out
    assert all(key in load_file(folder / WEIGHTS) for pair in TIED for key in pair)


def test_two_values_of_one_bias_are_not_chosen_between(folder):
    """Neither is zero, so nothing says which is right."""
    _edited(lambda state: state.update({TIED[0][0]: state[TIED[0][0]] + 1}))(folder)
    with pytest.raises(NotFaithful, match=r"one bias under two keys differs: mim_head\.bias and mim_head\.decoder\.bias, first at \[0\]"):
        repair_model_folder(folder)


@pytest.mark.parametrize("part", ["model"])
def test_encoders_alone_are_repaired_too(tiny, part, tmp_path):
    """A folder of `FlavaModel`'s keeps its names."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part=part)
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    _no_format(tmp_path / "out")
    repair_model_folder(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_the_record_of_the_conversion_stays_true(run_command, tiny, folder):
    """verify proves the repaired folder, record and all."""
    _without(0)(folder)
    repair_model_folder(folder)
    assert (folder / RECORD).exists()
    ran = run_command(
        "verify", "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", folder, "--weights-only"
    )
    assert ran.status == 0, ran.out


def test_what_is_no_folder_of_flava_is_refused(run_command, tmp_path):
    """Exit status 2."""
    (tmp_path / "empty").mkdir()
    ran = run_command("repair", "--converted_path", tmp_path / "empty")
    assert ran.status == 2 and "no weights in it" in ran.err


def _links(folder: Path) -> None:
    """As a hub's cache has them: files are links, and so may a folder be."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / "notes.md").rename(blobs / "notes")
    (folder / "notes.md").symlink_to("../blobs/notes")
    (folder / "up").symlink_to("..")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_links_lead_where_they_led_and_no_folder_is_copied_through_one(folder, tmp_path, elsewhere):
    """In place or not."""
    _links(folder)
    _without(1)(folder)
    target = tmp_path / "new" if elsewhere else folder
    repair_model_folder(folder, target if elsewhere else None)
    assert (target / "notes.md").read_text() == "mine"
    assert (target / "up").is_symlink() and (target / "up").resolve() == tmp_path.resolve()


def test_who_may_read_it_stays(folder):
    """A private folder's weights do not become everybody's."""
    _without(1)(folder)
    for path, mode in ((folder, 0o700), (folder / WEIGHTS, 0o600), (folder / "config.json", 0o640), (folder / "notes.md", 0o604)):
        path.chmod(mode)
    repair_model_folder(folder)
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / WEIGHTS, folder / "config.json", folder / "notes.md")]
    assert modes == [0o700, 0o600, 0o640, 0o604]


def test_the_current_folder_is_not_replaced(run_command, folder, monkeypatch):
    """Whoever stands in it would stand nowhere."""
    monkeypatch.chdir(folder)
    ran = run_command("repair", "--converted_path", ".")
    assert ran.status == 2 and "is the current folder; go elsewhere" in ran.err


def test_a_place_inside_of_the_folder_is_refused(run_command, folder):
    """It would be copied into itself."""
    ran = run_command("repair", "--converted_path", folder, "--repaired_path", folder / "fixed")
    assert ran.status == 2 and "lies inside of" in ran.err and not (folder / "fixed").exists()


def _two_values(folder: Path) -> None:
    _in_two(folder)
    other = next(path for path in folder.glob("model-*") if "flava.logit_scale" not in load_file(path))
    save_file(load_file(other) | {"flava.logit_scale": torch.tensor(9.0)}, other, {"format": "pt"})


def _old_and_new_name(folder: Path) -> None:
    key = "flava.text_model.embeddings.LayerNorm."
    _edited(lambda state: state.update({f"{key}gamma": state[f"{key}weight"] + 1}))(folder)


def _training_state(folder: Path) -> None:
    torch.save({"state_dict": load_file(folder / WEIGHTS), "optimizer": {"lr": 0.1}, "epoch": 3}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def _bias_of_another_length(folder: Path) -> None:
    _edited(lambda state: state.update({TIED[0][0]: torch.ones(7)}))(folder)


def _index(name: str):
    def change(folder: Path) -> None:
        _in_two(folder)
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"flava.logit_scale": name}}))

    return change


def _config(**fields):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= fields
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _piped_config(folder: Path) -> None:
    import os

    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


REFUSED = {
    "one key, two values in two files": (_two_values, 1, "flava.logit_scale has two values"),
    "one key, two values under an old and a new name": (_old_and_new_name, 1, "LayerNorm.weight has two values"),
    "positions that do not count up": (
        _edited(lambda state: state.update({POSITION_IDS: torch.zeros(1, 20, dtype=torch.int64)})),
        1,
        "position_ids does not hold 0, 1, 2",
    ),
    "training state in the weights' file": (_training_state, 2, "holds optimizer, epoch too"),
    "a bias of another length than its twin": (_bias_of_another_length, 1, "mim_head.bias"),
    "whole numbers for weights": (
        _edited(lambda state: state.update({"flava.image_projection.bias": torch.ones(16, dtype=torch.int8)})),
        1,
        "wrong dtype: flava.image_projection.bias (checkpoint) is int8",
    ),
    "an index that names nothing": (_index(""), 2, "names the file ''"),
    "an index that names no possible file": (_index("a\0b"), 2, "names the file"),
    "an index that names no file of any system": (_index("\ud800"), 2, "names the file"),
    "an index that leads elsewhere": (_index("../flava.pt"), 2, "does not lie beside it"),
    "a config that is a pipe": (_piped_config, 2, "not a config: no file"),
    "more layers than any model has": (_config(num_hidden_layers=10**8), 2, "no model has so many"),
}


@pytest.mark.parametrize(("harm", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_itself_or_would_be_lost_is_refused_untouched(run_command, folder, harm, status, says):
    """One message; what is there stays as it is."""
    harm(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ran = run_command("repair", "--converted_path", folder, "--quiet")
    assert ran.status == status and says in ran.err, ran.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_name_out_of_a_file_does_nothing_to_the_terminal(run_command, folder):
    """It is shown as what it is."""
    _edited(lambda state: state.update({"flava.\x1b[2J": torch.ones(1)}))(folder)
    ran = run_command("repair", "--converted_path", folder)
    assert ran.status == 1 and "\x1b" not in ran.err and "unexpected flava.\\x1b[2J" in ran.err


def test_a_key_that_an_index_forgets_is_named_in_it_again(folder, converted):
    """transformers reads what the index names."""
    _in_two(folder)
    index = folder / f"{WEIGHTS}.index.json"
    names = json.loads(index.read_text())["weight_map"]
    del names["flava.logit_scale"]
    index.write_text(json.dumps({"weight_map": names}))
    assert (
        "1 key that model.safetensors.index.json leaves out, such as flava.logit_scale: named there"
        in repair_model_folder(folder).summary()
    )
    assert (folder / WEIGHTS).read_bytes() == (converted / WEIGHTS).read_bytes()


def test_positions_of_the_encoders_alone_are_left_out_too(tiny, tmp_path):
    """A `FlavaModel` of 4.30.2 names them without the whole model's prefix."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="model")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    _edited(lambda state: state.update({"text_model.embeddings.position_ids": torch.arange(20)[None]}))(tmp_path / "out")
    assert "position_ids left out" in repair_model_folder(tmp_path / "out").summary()
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_a_dtype_that_is_said_twice_is_said_once(folder):
    """Releases read one or the other."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert "config.json: dtype left out, which other fields say" in repair_model_folder(folder).summary()
    assert json.loads((folder / "config.json").read_text()) == config
