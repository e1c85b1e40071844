"""Folders that several tests of conversion begin with."""

import shutil

import pytest

from flava_port import convert_flava_checkpoint


@pytest.fixture(scope="session")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint and its codebook, converted once: the form that loads right everywhere. Not to be changed."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


@pytest.fixture
def folder(converted, tmp_path):
    """A copy of the converted folder, with a file and a folder beside that are no weights."""
    copy = tmp_path / "folder"
    shutil.copytree(converted, copy)
    (copy / "notes.md").write_text("mine")
    (copy / "more").mkdir()
    (copy / "more" / "vocab.txt").write_text("word")
    return copy
