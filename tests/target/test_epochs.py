"""The epochs of transformers: which releases are in which, and how the list of releases is read."""

import os
import subprocess
import sys

import pytest
from packaging.version import Version

from flava_port.errors import InvalidInput
from flava_port.target.epochs import EPOCHS, RELEASES, epoch_of, read_releases, recorded_releases, release_with, releases_json
from flava_port.target.installed import source_digest
from tests.readme import ROOT
from tests.releases.in_tox import releases_in_tox


def test_no_release_is_in_two_epochs():
    """Every epoch has releases of its own, oldest first, and follows the one before."""
    seen = [release for epoch in EPOCHS for release in epoch.releases]
    assert all(epoch.releases and epoch.releases[0] == epoch.first for epoch in EPOCHS)
    assert seen == sorted(recorded_releases(), key=Version)


@pytest.mark.parametrize(
    ("release", "epoch"),
    [("4.25.1", "4.25.1 to 4.30.2"), ("4.57.6", "4.31.0 to 4.57.6"), ("5.0.0", "5.0.0"), ("5.24.0", "5.1.0 to 5.24.0")],
)
def test_a_recorded_release_is_in_its_epoch(release, epoch):
    """An epoch is named after its first release and its last."""
    assert str(epoch_of(release)) == epoch


@pytest.mark.parametrize("release", ("4.18.0", "5.10.1", "99.0.0", "5.23.0.dev0", "5.4.0rc1", "main", ""))
def test_a_release_that_was_not_recorded_is_not_guessed_at(release):
    """It is in no epoch, even if its number lies between two that are."""
    assert epoch_of(release) is None


def test_no_two_recorded_releases_have_the_same_sources():
    """The digest tells each release from all others."""
    assert all(release_with(recorded.sources) == release for release, recorded in recorded_releases().items())
    assert release_with("no digest") is None and release_with(None) is None


def test_the_newest_release_that_is_tested_is_recorded():
    """So is every release that tox.ini names."""
    assert {*releases_in_tox()} <= {*recorded_releases()}


def test_the_weekly_job_compares_with_the_newest_recorded_release():
    """tox's environment of the newest releases begins with the verdict, against the last that is known."""
    tox = (ROOT / "tox.ini").read_text()
    assert f"commands =\n    flava-port drift --from {EPOCHS[-1].releases[-1]} --to installed\n" in tox


def test_the_list_of_releases_is_written_as_it_is_committed():
    """The list has a line for each release, oldest first, so that recording one changes one line."""
    assert releases_json(recorded_releases()) == RELEASES.read_text()
    shuffled = dict(reversed(recorded_releases().items()))
    assert releases_json(shuffled) == RELEASES.read_text()


@pytest.mark.parametrize(
    "content",
    (b"", b"[]", b"\xff", b'{"5.0.0": 3}', b'{"5.0.0": {"epoch": "5.0.0"}}', b'{"5.0.0": {"epoch": "9.0.0", "sources": ""}}',
     b'{"main": {"epoch": "5.0.0", "sources": ""}}', b'{"5.0.0": {"epoch": "5.0.0", "sources": null}}'),
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


def test_sources_are_told_apart_by_every_byte_of_every_module(tmp_path):
    """Any change to a module of FLAVA or of all models changes the digest.

    The version, scripts that convert checkpoints, modules of other models and files that are no modules do not count.
    """
    flava = {"models/flava/__init__.py": "", "models/flava/modeling_flava.py": "x = 1", "models/flava/configuration_flava.py": "y = 1"}
    files = flava | {"modeling_utils.py": "u = 1", "__init__.py": "__version__ = 1"}
    others = {"models/flava/convert_flava.py": "z", "models/flava/notes.txt": "z", "models/bert/modeling_bert.py": "z", "__init__.py": "z"}
    variants = {
        "as it is": files,
        "with what does not count": files | others,
        "another byte": files | {"models/flava/modeling_flava.py": "x = 2"},
        "another name": {name.replace("modeling_flava", "modeling_flava2"): text for name, text in files.items()},
        "a module more": files | {"models/flava/more.py": ""},
        "a byte moved on": files | {"models/flava/modeling_flava.py": "x = 1y", "models/flava/configuration_flava.py": " = 1"},
        "another byte in what all models share": files | {"modeling_utils.py": "u = 2"},
        "a module moved": flava | {"models/flava/modeling_utils.py": "u = 1"},
        "no flava": {"modeling_utils.py": "u = 1"},
    }
    digests = {}
    for variant, content in variants.items():
        for name, text in content.items():
            path = tmp_path / variant / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        digests[variant] = source_digest(tmp_path / variant)
    assert digests["as it is"] == digests.pop("with what does not count")
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
