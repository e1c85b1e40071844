"""Options that contradict each other are refused before any file is looked at."""

from pathlib import Path

import pytest

from flava_port import InvalidInput, convert_flava_checkpoint
from flava_port.reading.options import Options

NOWHERE = Path("no-such-file.pt")


def test_a_part_beside_a_codebook_is_refused():
    """A part has no codebook."""
    with pytest.raises(InvalidInput, match="^--part text has no codebook; leave out --codebook_path$"):
        convert_flava_checkpoint(NOWHERE, NOWHERE, NOWHERE, part="text")


def test_a_dtype_that_is_not_written_is_refused():
    """The message names those that are."""
    with pytest.raises(InvalidInput, match="^dtype 'float16' is none of float32, keep$"):
        convert_flava_checkpoint(NOWHERE, None, NOWHERE, dtype="float16")


def test_what_is_read_from_the_disk_is_known_by_path():
    """URLs and what is not given are left out."""
    assert Options("flava.pt", Path("codes.pt")).local_paths() == (Path("flava.pt"), Path("codes.pt"))
    assert Options("https://example.org/flava.pt", None, "config").local_paths() == (Path("config"),)
    assert Options(None, "codes.pt").local_paths() == (Path("codes.pt"),)
