"""The helpers under everything else do what they say: digests of files, words of messages, work in the background."""

import hashlib

import pytest

from flava_port.files.checkpoint import file_sha256
from flava_port.progress import in_background
from flava_port.text import count_of, few, labelled, printable, shown


@pytest.mark.parametrize("content", [b"weights", b""])
@pytest.mark.parametrize("at_once", [1, 3, 7, 8])
def test_a_files_digest_is_that_of_its_content(tmp_path, content, at_once):
    """`file_sha256` gives what any tool computes, however much it reads at once."""
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file", at_once) == file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_list_is_cut_short_with_a_count_of_the_rest():
    """Nothing is said of a rest if there is none."""
    assert few(["a", "b", "c"], 3) == ["a", "b", "c"] and few(["a", "b", "c"], 1) == ["a", "... and 2 more"]


def test_a_summary_has_its_labels_in_a_column():
    """And a count has its noun in the right number."""
    assert labelled([("read", count_of(1, "file")), ("dropped", count_of(1200, "key"))]) == "read     1 file\ndropped  1,200 keys"


def test_no_text_from_a_file_reaches_the_terminal_as_it_is():
    """Control characters are escaped, and `shown` cuts a long text in its middle and keeps it on one line."""
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\nb" and shown("a\x1b\nb") == "a\\x1b\\nb"
    assert shown("x" * 100) == "x" * 100 and shown("x" * 101) == "x" * 60 + "..." + "x" * 30


def test_work_in_the_background_gives_its_result_or_its_error():
    """Both come when the result is asked for."""
    assert in_background(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_background(divmod, 7, 0).result()
