"""Adds releases of transformers to the list that the package has, target/releases.json.

python -m tests.releases.record 5.24.0 5.25.0   # each observed in an environment of its own: flava-port layout --record
python -m tests.releases.record --digests       # of all that are listed, once more, from their wheels (13 MB each)

The second is for when `source_digest` has changed what it covers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

from flava_port.releases.environments import make
from flava_port.target.epochs import RELEASES, RecordedRelease, read_releases, releases_json
from flava_port.target.installed import source_digest
from tests.releases.in_tox import ROOT


def record(release: str, torch: str, scratch: Path) -> None:
    """Observes the release in an environment made for it, and lists it with its epoch and digest."""
    python = make(scratch, {"torch": torch, "transformers": release})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run([python, "-m", "flava_port", "layout", "--record"], env=environment, cwd=scratch, check=True)


def digest_of_wheel(release: str, scratch: Path) -> str:
    """The digest of a release's sources, read from its wheel."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"transformers=={release}", "--dest", str(scratch)]
    subprocess.run(pip, check=True)
    [wheel] = scratch.glob(f"transformers-{release}-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(scratch, [name for name in archive.namelist() if name.endswith(".py")])
    digest = source_digest(scratch / "transformers")
    assert digest, f"transformers {release} has no FLAVA"
    return digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", help="of transformers")
    parser.add_argument("--digests", action="store_true", help="compute the digest of every listed release anew")
    parser.add_argument("--torch", default=version("torch").split("+")[0], help="its release (default: %(default)s)")
    options = parser.parse_args()
    for release in options.releases:
        with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
            record(release, options.torch, Path(folder))
    if options.digests:
        listed = read_releases(RELEASES)
        for release, row in listed.items():
            with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
                listed[release] = RecordedRelease(row.epoch, digest_of_wheel(release, Path(folder)))
            print(f"{release}: {listed[release].sources}")
        RELEASES.write_text(releases_json(listed))


if __name__ == "__main__":
    main()
