"""The epochs of transformers: which releases are in which, and how the list of releases is read."""

import os
import subprocess
import sys

import pytest
import transformers

from flava_port.errors import InvalidInput
from flava_port.target.config import DEFAULTS
from flava_port.target.epochs import EPOCHS, RELEASES, RecordedRelease, epoch_of, read_releases, recorded_releases, releases_json
from flava_port.target.installed import known_shapes, source_digest

RELEASE = transformers.__version__


def test_no_release_is_in_two_epochs():
    """Every epoch has releases of its own, and covers none of another's."""
    for older, newer in zip(EPOCHS, EPOCHS[1:]):
        assert older.releases and newer.releases
        assert not any(older.covers(release) for release in newer.releases)
        assert not any(newer.covers(release) for release in older.releases)


@pytest.mark.parametrize(
    ("release", "epoch"),
    [
        ("4.25.1", "4.25.1 to 4.30.2"),
        ("4.30.2", "4.25.1 to 4.30.2"),
        ("4.31.0", "4.31.0 to 4.57.6"),
        ("4.9.0", "None"),
        ("4.57.6", "4.31.0 to 4.57.6"),
        ("4.99.0", "None"),
        ("5.0.0", "5.0.0"),
        ("5.0", "5.0.0"),
        ("5.10.1", "5.1.0 to "),
    ],
)
def test_a_release_is_in_the_epoch_whose_ends_it_lies_between(release, epoch):
    """Releases compare by number, so that 4.9 is older than 4.25; what lies between two epochs is in neither."""
    assert str(epoch_of(release)).startswith(epoch)


@pytest.mark.parametrize("release", ("4.18.0", "99.0.0", "5.23.0.dev0", "5.4.0rc1", "5.4.0+mine", "main", ""))
def test_a_release_outside_every_range_is_not_guessed_at(release):
    """No shapes are stated for a release newer or older than all that were seen, nor for one that is not final."""
    assert known_shapes(DEFAULTS, release) is None


def test_a_known_release_is_not_imported():
    """The shapes that a known release expects are found without importing it, which takes longer than a conversion."""
    code = "import sys, flava_port.target.installed as i, flava_port.target.config as c; i.shapes_for(c.DEFAULTS); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == (0 if epoch_of(RELEASE) else 1)


def test_the_list_of_releases_is_written_as_it_is_committed():
    """The list has a line for each release, oldest first, so that recording one changes one line."""
    assert releases_json(recorded_releases()) == RELEASES.read_text()
    shuffled = dict(reversed(recorded_releases().items()))
    assert releases_json(shuffled) == RELEASES.read_text()


@pytest.mark.parametrize(
    "content",
    (b"", b"[]", b"\xff", b'{"5.0.0": 3}', b'{"5.0.0": {"epoch": "5.0.0"}}', b'{"5.0.0": {"epoch": "9.0.0", "sources": null}}',
     b'{"main": {"epoch": "5.0.0", "sources": null}}', b'{"5.0.0": {"epoch": "5.0.0", "sources": 3}}'),
)  # fmt: skip
def test_a_file_that_is_no_list_of_releases_is_refused(content, tmp_path):
    """The message names the file."""
    path = tmp_path / "new.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"new\.json: no list of releases"):
        read_releases(path)


def test_a_list_of_releases_that_is_not_there_cannot_be_read(tmp_path):
    """The message names the file."""
    with pytest.raises(InvalidInput, match=r"new\.json: cannot be read"):
        read_releases(tmp_path / "new.json")


def test_the_sources_of_the_installed_release_are_those_that_were_recorded():
    """If a digest was recorded for the installed release, it is that of the installed sources."""
    recorded = recorded_releases().get(RELEASE, RecordedRelease("", None))
    assert recorded.sources in (None, source_digest())


def test_sources_are_told_apart_by_every_byte_of_every_module(tmp_path):
    """Any change to a module changes the digest; scripts that convert checkpoints, and files that are no modules, do not count."""
    files = {"__init__.py": "", "modeling_flava.py": "x = 1", "configuration_flava.py": "y = 1"}
    variants = {
        "as it is": files,
        "with a script": files | {"convert_flava.py": "z = 1", "notes.txt": "z"},
        "another byte": files | {"modeling_flava.py": "x = 2"},
        "another name": {"__init__.py": "", "modeling_flava2.py": "x = 1", "configuration_flava.py": "y = 1"},
        "a module more": files | {"more.py": ""},
        "a byte moved on": files | {"modeling_flava.py": "x = 1y", "configuration_flava.py": " = 1"},
        "no flava": {},
    }
    digests = {}
    for variant, content in variants.items():
        folder = tmp_path / variant / "models" / "flava"
        folder.mkdir(parents=True)
        for name, text in content.items():
            (folder / name).write_text(text)
        digests[variant] = source_digest(tmp_path / variant)
    assert digests["as it is"] == digests.pop("with a script")
    assert digests["no flava"] is None and len(set(digests.values())) == len(digests)


def test_the_digest_is_of_what_would_be_imported_and_imports_nothing(tmp_path):
    """The digest is that of the transformers that comes first on the path, even if importing it fails."""
    flava = tmp_path / "transformers" / "models" / "flava"
    flava.mkdir(parents=True)
    (tmp_path / "transformers" / "__init__.py").write_text("raise ImportError('this must not be imported')")
    (flava / "modeling_flava.py").write_text("x = 1")
    code = "import sys; from flava_port.target.installed import source_digest; sys.stdout.write(source_digest())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said == source_digest(tmp_path / "transformers")
