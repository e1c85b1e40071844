"""What is proven is proven of the bytes that were read: a file that changes meanwhile leaves the proof open."""

import hashlib
import os
import shutil
from unittest import mock

import pytest

from flava_port.proof.certificate import Verdict
from flava_port.proof.weights import WeightClaims
from flava_port.verify import verify_flava_checkpoint
from tests.builders import write_tiny


@pytest.fixture
def files(converted, tmp_path):
    """A checkpoint, its codebook and a clean folder, to be changed."""
    tiny = write_tiny(tmp_path)
    return tiny.checkpoint, tiny.codebook, shutil.copytree(converted, tmp_path / "out")


def rewritten(path):
    """The same bytes, size and time of change, written again."""
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    """Another file under the name, with the same bytes and times."""
    shutil.copy2(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def appeared(path):
    path.with_name("model-00009-of-00009.safetensors").write_bytes(path.read_bytes())


CHANGES = {
    "the weights are written again": (2, "model.safetensors", rewritten),
    "the weights are replaced": (2, "model.safetensors", replaced),
    "the config is touched": (2, "config.json", lambda path: path.touch()),
    "a file appears": (2, "model.safetensors", appeared),
    "a file goes": (2, "preprocessor_config.json", lambda path: path.unlink()),
    "the checkpoint is written again": (0, "", rewritten),
    "the codebook is replaced": (1, "", replaced),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_the_proof_leaves_it_open(change, files):
    """Whatever the other claims found: the verdict is not proven, and the file is named."""
    which, name, edit = CHANGES[change]
    path = files[which] / name if name else files[which]
    judge = WeightClaims.ties

    def judge_and_edit(*arguments):
        edit(path)
        judge(*arguments)

    checks = "flava_port.verify.ABOUT_THE_FILES"
    from flava_port.proof.claims import ABOUT_THE_FILES, Check

    edited = [Check(c.name, judge_and_edit) if c.name == "tied weights" else c for c in ABOUT_THE_FILES if c.name != "processor config"]
    with mock.patch(checks, tuple(edited[:6])):
        certificate = verify_flava_checkpoint(*files, weights_only=True)
    assert certificate.verdict is Verdict.NOT_PROVEN and certificate.exit_status == 1, certificate.table()
    assert certificate.cause.name == "unchanged" and "changed while it was verified" in certificate.table()


def test_the_digests_are_of_the_bytes_that_were_compared(files):
    """Of the sources' files, of the files that describe the folder, and of every tensor."""
    certificate = verify_flava_checkpoint(*files, weights_only=True)
    assert certificate.verdict is Verdict.PROVEN
    for name, path in {"flava.pt": files[0], "encoder.pkl": files[1], "out/config.json": files[2] / "config.json"}.items():
        assert certificate.digests[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len([name for name in certificate.digests if name.startswith(("flava.", "image_codebook."))]) > 200
