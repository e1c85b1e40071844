"""A file's digest is that of its content."""

import hashlib

from flava_port.files.checkpoint import file_sha256


def test_it_is_the_files_sha256(tmp_path):
    """As any tool computes it."""
    (tmp_path / "file").write_bytes(b"weights")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()
