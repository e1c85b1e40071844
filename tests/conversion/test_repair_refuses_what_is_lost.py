"""`repair` refuses a folder whose values are lost or contradict each other, and leaves it untouched."""

import pytest
import torch

from flava_port.errors import NotFaithful
from flava_port.repair import repair_model_folder
from flava_port.target.keys import TIED
from tests.conversion import repair_forms as forms


def test_what_is_lost_already_is_said_and_nothing_is_written(run_command, folder):
    """4.43 to 4.50 leave a folder that has decoder.bias alone with all four biases zero under both keys."""
    forms.zero(0)(folder)
    forms.zero(1)(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ran = run_command("repair", "--converted_path", folder, "--quiet")
    assert ran.status == 1
    assert "mim_head.bias, mlm_head.bias, mmm_image_head.bias, mmm_text_head.bias are zero throughout: lost already" in ran.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_two_values_of_one_bias_are_not_chosen_between(folder):
    """Neither is zero, so nothing says which is right."""
    forms.edited(lambda state: state.update({TIED[0][0]: state[TIED[0][0]] + 1}))(folder)
    with pytest.raises(NotFaithful, match=r"one bias under two keys differs: mim_head\.bias and mim_head\.decoder\.bias, first at \[0\]"):
        repair_model_folder(folder)


def test_what_is_no_folder_of_flava_is_refused(run_command, tmp_path):
    """The exit status is 2."""
    (tmp_path / "empty").mkdir()
    ran = run_command("repair", "--converted_path", tmp_path / "empty")
    assert ran.status == 2 and "no weights in it" in ran.err


def test_the_current_folder_is_not_replaced(run_command, folder, monkeypatch):
    """Whoever works there would be left in a folder that is gone."""
    monkeypatch.chdir(folder)
    ran = run_command("repair", "--converted_path", ".")
    assert ran.status == 2 and "is the current folder; go elsewhere" in ran.err


def test_a_place_inside_of_the_folder_is_refused(run_command, folder):
    """The folder would be copied into itself."""
    ran = run_command("repair", "--converted_path", folder, "--repaired_path", folder / "fixed")
    assert ran.status == 2 and "lies inside of" in ran.err and not (folder / "fixed").exists()


REFUSED = {
    "one key, two values in two files": (forms.two_values, 1, "flava.logit_scale has two values"),
    "one key, two values under an old and a new name": (forms.old_and_new_name, 1, "LayerNorm.weight has two values"),
    "positions that do not count up": (
        forms.with_position_ids(ids=torch.zeros(1, 20, dtype=torch.int64)),
        1,
        "position_ids does not hold 0, 1, 2",
    ),
    "training state in the weights' file": (forms.training_state, 2, "holds optimizer, epoch too"),
    "a bias of another length than its twin": (
        forms.edited(lambda state: state.update({TIED[0][0]: torch.ones(7)})),
        1,
        "wrong shape: mim_head.bias (checkpoint) is [7], the model's mim_head.bias is [40]",
    ),
    "whole numbers for weights": (
        forms.edited(lambda state: state.update({"flava.image_projection.bias": torch.ones(16, dtype=torch.int8)})),
        1,
        "wrong dtype: flava.image_projection.bias (checkpoint) is int8",
    ),
    "an index that names nothing": (forms.index_that_names(""), 2, "names the file ''"),
    "an index that names no possible file": (forms.index_that_names("a\0b"), 2, "names the file"),
    "an index that names no file of any system": (forms.index_that_names("\ud800"), 2, "names the file"),
    "an index that leads elsewhere": (forms.index_that_names("../flava.pt"), 2, "does not lie beside it"),
    "a config that is a pipe": (forms.piped_config, 2, "not a config: it is no regular file"),
    "more layers than any model has": (forms.text_config(num_hidden_layers=10**8), 2, "no model has so many"),
}


@pytest.mark.parametrize(("harm", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_itself_or_would_be_lost_is_refused_untouched(run_command, folder, harm, status, says):
    """There is one message, and what is there stays as it is."""
    harm(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ran = run_command("repair", "--converted_path", folder, "--quiet")
    assert ran.status == status and says in ran.err, ran.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_name_out_of_a_file_does_nothing_to_the_terminal(run_command, folder):
    """What a terminal would act on is shown escaped."""
    forms.edited(lambda state: state.update({"flava.\x1b[2J": torch.ones(1)}))(folder)
    ran = run_command("repair", "--converted_path", folder)
    assert ran.status == 1 and "\x1b" not in ran.err and "unexpected flava.\\x1b[2J" in ran.err
