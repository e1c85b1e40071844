"""What the tests of the report share with those of the proof and of the releases: a clean folder, an observation."""

from tests.proof.conftest import certificate, converted
from tests.releases.conftest import file, observed

__all__ = ["certificate", "converted", "file", "observed"]
