"""The releases that tox.ini tests, read out of it: that file alone says which."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def releases_in_tox() -> list[str]:
    """The releases of transformers that tox.ini tests, oldest first."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    return re.findall(r"^transformers\d+: transformers==(\S+)$", tox["testenv"]["deps"], re.MULTILINE)
