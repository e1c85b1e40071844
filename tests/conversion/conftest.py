"""Folders that several tests of conversion begin with."""

import shutil

import pytest


@pytest.fixture
def folder(converted, tmp_path):
    """A copy of the converted folder, with a file and a folder beside that are no weights."""
    copy = tmp_path / "folder"
    shutil.copytree(converted, copy)
    (copy / "notes.md").write_text("mine")
    (copy / "more").mkdir()
    (copy / "more" / "vocab.txt").write_text("word")
    return copy
