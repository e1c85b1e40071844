"""The version is the same wherever it stands."""

import re
import tomllib

import flava_port
from tests.readme import ROOT


def test_the_version_is_the_same_everywhere():
    """In the package, for pip, in what papers cite, and as the newest in the list of changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [cited] = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert flava_port.__version__ == project == cited == newest
