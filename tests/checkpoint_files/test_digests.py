"""A file's digest is that of its content when it is asked for, begun early or not."""

import hashlib
import os
import threading

import pytest

from flava_port import digests


@pytest.mark.parametrize("begun", [False, True])
def test_it_is_the_files_sha256(tmp_path, begun):
    """As any tool computes it."""
    (tmp_path / "file").write_bytes(b"weights")
    if begun:
        digests.begin(tmp_path / "file", None)
    assert digests.file_sha256(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()


def test_a_file_that_changed_since_is_digested_again(tmp_path):
    """What was begun is not taken for it, not even where the size is the same."""
    (tmp_path / "file").write_bytes(b"before")
    digests.begin(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"after!")
    os.utime(tmp_path / "file", ns=(1, 1))
    assert digests.file_sha256(tmp_path / "file") == hashlib.sha256(b"after!").hexdigest()


def test_what_is_no_file_is_left_to_who_opens_it(tmp_path, monkeypatch):
    """A pipe would wait for ever; a URL, a folder and a name with a zero byte are no files."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"weights")
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("begun"))
    digests.begin(tmp_path / "pipe", tmp_path, tmp_path / "nowhere", "https://example.com/flava.pt", "a\0b")
    with pytest.raises(pytest.fail.Exception, match="begun"):
        digests.begin(tmp_path / "file")
