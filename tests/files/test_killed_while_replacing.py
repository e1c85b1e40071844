"""A kill at any line leaves what others have in a folder as it was, and of ours the whole old or the whole new; the next run tidies up."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from flava_port.errors import InvalidInput
from flava_port.files import replacing, staging
from flava_port.files.owned import check_folder, is_written, owned_in, written_in
from flava_port.files.staging import clear_leftovers, staged
from tests.files.killed import NEW, OLD, OTHERS, RECORD, fill, replace, texts

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks; run on Linux or macOS")


class Kill(NamedTuple):
    """What a kill left in the folder: our files and the others'; what the next run said; what was there then, and beside it."""

    ours: dict[str, str]
    others: dict[str, str]
    notes: list[str]
    then: dict[str, str]
    beside: list[str]


def kills(tmp_path: Path, how: str, step: int) -> list[Kill]:
    command = [sys.executable, "-m", "tests.files.killed", str(tmp_path), how, str(step)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    found = []
    for left, notes, then in json.loads(ran.stdout):
        inside = {name.removeprefix("out/"): content for name, content in left.items() if name.startswith("out/")}
        ours = {name: content for name, content in inside.items() if is_written(name)}
        others = {name: content for name, content in inside.items() if name not in ours}
        after = {name.removeprefix("out/"): content for name, content in then.items() if name.startswith("out/")}
        found.append(Kill(ours, others, notes, after, [name for name in then if not name.startswith("out/")]))
    assert len(found) > 150 / step and found[-1].ours == NEW and found[0].ours == OLD
    return found


EVERY_LINE = pytest.param(1, marks=pytest.mark.slow, id="every line")
SOME_LINES = pytest.param(11, id="some lines")


@pytest.mark.parametrize("step", [SOME_LINES, EVERY_LINE])
@pytest.mark.parametrize("how", ["with a swap", "without a swap", "alone"])
def test_a_kill_leaves_what_is_not_ours_and_the_next_run_tidies_up(tmp_path, how, step):
    """Where the system can swap two names, where it cannot, and where the folder is ours alone."""
    others = {} if how == "alone" else OTHERS
    for at, kill in enumerate(kills(tmp_path, how, step)):
        assert kill.others == others, f"after kill {at}"
        assert kill.ours in (OLD, NEW) or (how == "without a swap" and "config.json" not in kill.ours), f"after kill {at}: {kill.ours}"
        assert kill.then == NEW | others, f"after kill {at}"
        assert not kill.beside or any("look at it" in note for note in kill.notes), f"after kill {at}: {kill.beside}"


def test_files_of_others_are_the_same_files_afterwards(tmp_path):
    """Not copies: whoever has them open goes on with them."""
    fill(tmp_path / "out", OLD | OTHERS)
    os.symlink("README.md", tmp_path / "out" / "link")
    before = {path.relative_to(tmp_path): path.stat().st_ino for path in (tmp_path / "out").rglob("*") if path.is_file()}
    replace(tmp_path / "out")
    assert texts(tmp_path / "out") == NEW | OTHERS | {"link": "mine"}
    assert os.readlink(tmp_path / "out" / "link") == "README.md"
    assert all((tmp_path / name).stat().st_ino == before[Path("out") / name] for name in map(Path, OTHERS) if (tmp_path / name).exists())


def test_the_old_folders_permissions_stay(tmp_path):
    """Those of folders of others in it too."""
    fill(tmp_path / "out", OLD | OTHERS)
    (tmp_path / "out").chmod(0o750)
    (tmp_path / "out" / ".git").chmod(0o700)
    replace(tmp_path / "out")
    assert [oct((tmp_path / name).stat().st_mode)[-3:] for name in ("out", "out/.git")] == ["750", "700"]


def test_what_others_write_between_the_links_and_the_swap_is_kept(tmp_path, monkeypatch):
    """A new file, and one that took the place of another."""
    fill(tmp_path / "out", OLD | OTHERS)
    swap = replacing._swap

    def late(new, target):
        fill(target, {".git/late": "late", "late/too": "late"})
        (target / "README.tmp").write_text("newer")
        os.replace(target / "README.tmp", target / "README.md")
        return swap(new, target)

    monkeypatch.setattr(replacing, "_swap", late)
    replace(tmp_path / "out")
    assert texts(tmp_path / "out") == NEW | OTHERS | {".git/late": "late", "late/too": "late", "README.md": "newer"}


def test_files_that_cannot_be_linked_stay_where_they_are(tmp_path, monkeypatch):
    """As on a file system without links."""

    def no_links(*_, **__):
        raise OSError(1, "Operation not permitted")

    fill(tmp_path / "out", OLD | OTHERS)
    monkeypatch.setattr(os, "link", no_links)
    replace(tmp_path / "out")
    assert texts(tmp_path) == {f"out/{name}": content for name, content in (NEW | OTHERS).items()}


@pytest.mark.parametrize("failing", range(1, 8))
def test_a_rename_that_fails_in_between_changes_nothing(tmp_path, monkeypatch, failing):
    """Where our files are renamed away and in one by one, whichever cannot be."""
    fill(tmp_path / "out", OLD | OTHERS)
    monkeypatch.setattr(replacing, "_SWAPS", ())
    rename, calls = Path.rename, []

    def renamed(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(InvalidInput, match="No space left on device"):
        replace(tmp_path / "out")
    assert texts(tmp_path) == {f"out/{name}": content for name, content in (OLD | OTHERS).items()}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "preprocessor_config.json"])
def test_files_of_others_under_our_names_stop_it_before_any_work(tmp_path, name):
    """As in a folder that transformers saved: --force replaces only what flava-port wrote."""
    fill(tmp_path / "out", {name: "theirs", "README.md": "mine"})
    with pytest.raises(InvalidInput, match=f"flava-port did not write {name} there"):
        check_folder(tmp_path / "out", force=True)
    assert texts(tmp_path / "out") == {name: "theirs", "README.md": "mine"}


HOSTILE_RECORDS = {
    "a file of others": {"tensors": {"w": {"file": "README.md"}, "v": {"file": ".git"}}},
    "a path": {"tensors": {"w": {"file": "../secret"}, "v": {"file": "/etc/hostname"}}},
    "no text": {"tensors": {"w": {"file": ["README.md"]}}},
    "no tensors": {"tensors": 3},
    "nothing": {},
    "a list": [],
}


@pytest.mark.parametrize("record", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_a_record_is_believed_only_about_names_that_we_write(tmp_path, record):
    """Whatever else it lists is not ours."""
    fill(tmp_path / "out", OTHERS | {"conversion.json": json.dumps(record)})
    (tmp_path / "secret").write_text("secret")
    assert owned_in(tmp_path / "out") <= {"conversion.json"}
    with staged(tmp_path / "out", owned_in(tmp_path / "out") | {"conversion.json"}) as folder:
        fill(folder, NEW)
    assert texts(tmp_path) == {"secret": "secret", **{f"out/{name}": content for name, content in (NEW | OTHERS).items()}}


def test_weights_of_others_beside_ours_are_told_apart(tmp_path):
    """A weights file that the record does not list is someone else's."""
    fill(tmp_path / "out", OLD | {"model-00001-of-00002.safetensors": "theirs"})
    assert owned_in(tmp_path / "out") == set(OLD)
    with pytest.raises(InvalidInput, match="did not write model-00001-of-00002.safetensors"):
        check_folder(tmp_path / "out", force=True)


def test_a_file_is_no_folder_to_replace(tmp_path):
    """Whoever wrote it."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InvalidInput, match="is a file, and --force replaces only a folder"):
        check_folder(tmp_path / "out", force=True)


def test_a_run_at_work_is_left_alone(tmp_path):
    """Its hidden folder is neither removed nor called left over; once it ended, none is there."""
    with staged(tmp_path / "out") as folder:
        fill(folder, NEW)
        assert clear_leftovers(tmp_path / "out", written_in) == []
    assert texts(tmp_path) == {f"out/{name}": content for name, content in NEW.items()}


LEFT = {
    "what we write": ({"new/config.json": "{}", "new/model.safetensors": "half"}, True),
    "an old one that was replaced": ({"new/config.json": "{}", **{f"old/{name}": content for name, content in OLD.items()}}, True),
    "a tokenizer that the record names": (
        {"new/conversion.json": RECORD.replace("{", '{"tokenizer": {}, ', 1), "new/vocab.txt": "cat"},
        True,
    ),
    "a vocabulary that no record names": ({"new/conversion.json": RECORD, "new/vocab.txt": "mine"}, False),
    "a file to be made": ({"new": "half a checkpoint"}, True),
    "a file of someone else's": ({"new/thesis.txt": "mine"}, False),
    "more than a run makes": ({"new/config.json": "{}", "notes": "mine"}, False),
    "another lock": ({"new/config.json": "{}", "lock": "mine"}, False),
}


@pytest.mark.parametrize(("left", "goes"), LEFT.values(), ids=LEFT)
def test_leftovers_go_only_where_all_in_them_is_ours(tmp_path, left, goes):
    """Otherwise they are named, with what to do."""
    fill(tmp_path / "out", {"conversion.json": RECORD})
    stage = tmp_path / ".out.0123abcd.partial"
    fill(stage, {"lock": staging._MARK} | left)
    [note] = clear_leftovers(tmp_path / "out", written_in)
    assert stage.exists() != goes and (note.startswith("removed .out.0123abcd.partial") if goes else f"{stage} is left over" in note)


def test_the_only_old_one_is_not_removed(tmp_path):
    """A kill between two renames leaves the old target in the hidden folder alone."""
    stage = tmp_path / ".out.0123abcd.partial"
    fill(stage, {"lock": staging._MARK, "new/config.json": "{}", **{f"old/{name}": content for name, content in OLD.items()}})
    [note] = clear_leftovers(tmp_path / "out", written_in)
    assert "look at it" in note and texts(stage / "old") == OLD


def test_the_command_says_what_it_cleared(run_command, tiny, tmp_path):
    """A leftover of an earlier run, beside the folder that the next one makes."""
    fill(tmp_path / ".out.0123abcd.partial", {"lock": staging._MARK, "new/model.safetensors": "half"})
    fill(tmp_path / ".out.4567cdef.partial", {"lock": staging._MARK, "new/thesis.txt": "mine"})
    files = ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook]
    ran = run_command("convert", *files, "--pytorch_dump_folder_path", tmp_path / "out")
    assert ran.status == 0 and "note     removed .out.0123abcd.partial" in ran.out and ".out.4567cdef.partial is left over" in ran.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.4567cdef.partial", "out"]
