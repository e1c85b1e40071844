"""What a newcomer gets wrong first is answered with what to do instead, before any work."""

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.releases import environments
from flava_port.releases.observation import Unobservable


@pytest.fixture
def folder(tiny, tmp_path):
    """The tiny checkpoint, converted with its codebook."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    return tmp_path / "out"


def test_verify_says_what_to_pass_for_a_folder_with_a_codebook(run_command, tiny, folder):
    """Without the codebook's file; a folder that has none needs none."""
    ran = run_command("verify", "--checkpoint_path", tiny.checkpoint, "--converted_path", folder)
    assert ran.status == 2 and ran.out == "" and "holds an image codebook" in ran.err and "--codebook_path" in ran.err
    convert_flava_checkpoint(tiny.checkpoint, None, folder.with_name("without"), no_codebook=True)
    bare = ["--checkpoint_path", tiny.checkpoint, "--converted_path", folder.with_name("without"), "--weights-only"]
    assert run_command("verify", *bare).status == 0


@pytest.mark.parametrize("where", ["checkpoint_path", "codebook_path", "converted_path", "config_path"])
def test_a_name_on_the_hub_is_no_path(run_command, tiny, folder, where):
    """The message says how to fetch it."""
    files = {"checkpoint_path": tiny.checkpoint, "codebook_path": tiny.codebook, "converted_path": folder} | {where: "facebook/flava-full"}
    ran = run_command("verify", *(part for name, path in files.items() for part in (f"--{name}", path)), "--weights-only")
    assert ran.status == 2 and "fetch it first" in ran.err and "hf download facebook/flava-full --local-dir flava-full" in ran.err


@pytest.mark.parametrize("path", ["nowhere", "nowhere/flava.pt", "../a/b", "/a/b", "a/b/c"])
def test_any_other_path_is_no_name_on_the_hub(run_command, folder, path):
    """Its message is that there is no such file."""
    ran = run_command("verify", "--checkpoint_path", path, "--converted_path", folder)
    assert ran.status == 2 and ran.err == f"flava-port: {path}: no such file\n"


@pytest.fixture
def observing(monkeypatch, tmp_path):
    """Pretends that pip lists two releases, and lists which environments are made."""
    made = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "releases_of", lambda package: ["4.57.6", "5.24.0"])

    def make(folder, releases):
        made.append(releases)
        raise Unobservable("no environment today")

    monkeypatch.setattr(environments, "make", make)
    return made


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("9.9.9", "there is no transformers 9.9.9; the newest is 5.24.0"),
        ("latest", "is no observation's file"),
        (__file__, "no observation"),
    ],
    ids=["no such release", "no release", "no observation"],
)
def test_drift_refuses_an_impossible_end_before_it_observes_the_other(run_command, observing, to, message):
    """No environment is made."""
    ran = run_command("drift", "--from", "4.57.6", "--to", to)
    assert ran.status == 2 and message in ran.err and observing == []


def test_drift_observes_what_exists(run_command, observing):
    """Also a pre-release, which pip does not list, and any release where pip lists nothing."""
    for release in ("4.57.6", "9.9.9rc1"):
        assert "no environment today" in run_command("drift", "--from", release).err
    assert [made["transformers"] for made in observing] == ["4.57.6", "9.9.9rc1"]


def test_without_a_command_a_newcomer_reads_what_to_do(run_command):
    """The two commands that matter, and the way to all others; the status is that of wrong usage."""
    ran = run_command()
    assert ran.status == 2 and ran.err == ""
    assert all(text in ran.out for text in ("flava-port demo", "flava-port convert --checkpoint_path", "flava-port verify", "--help"))
