"""The version is the same wherever it stands."""

import re
import tomllib

import flava_port
from tests.readme import ROOT


def test_the_version_is_the_same_everywhere():
    """In the package, for pip, and in what papers cite."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [cited] = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert flava_port.__version__ == project == cited
