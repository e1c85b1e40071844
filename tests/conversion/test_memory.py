"""A conversion needs the same memory for a model of any size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flava_port.files.torch_format import write_torch_zip
from flava_port.original.config import FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava_port.original.seeded import seeded_state_dict
from tests.comparing import assert_converted

MEGABYTE = 1 << 20

# Run in a process of its own: it does one small conversion, so that all libraries are there, then is limited, and
# does what it was asked for. `data` counts every private writable page, the stacks of threads too.
LIMITED = '''
import resource, sys
from pathlib import Path
from flava_port.cli import main

def limit(megabytes):
    """`+60`: so many more than now; `1024`: in all."""
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    most = (int(megabytes) << 20) + (data if megabytes.startswith("+") else 0)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))

most, small, large, what = sys.argv[1:]
assert main(["convert", "--checkpoint_path", small, "--no-codebook", "--quiet", "--force", "--pytorch_dump_folder_path", large + ".small"]) == 0
if what == "load":
    import torch
limit(most)
if what == "load":
    torch.load(large, weights_only=True)
else:
    sys.exit(main(["convert", "--checkpoint_path", large, "--no-codebook", "--quiet", "--pytorch_dump_folder_path", what]))
'''

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does; run on Linux")


def _run(megabytes: str, tiny, checkpoint: Path, what: Path | str) -> subprocess.CompletedProcess:
    arguments = [megabytes, tiny.checkpoint, checkpoint, what]
    return subprocess.run([sys.executable, "-c", LIMITED, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of 120 MB."""
    config = FlavaConfig(
        ImageConfig(384, 5, 6, 1536, vocab_size=256),
        TextConfig(384, 5, 6, 1536, vocab_size=4096),
        MultimodalConfig(384, 5, 6, 1536),
    )
    path = tmp_path_factory.mktemp("large") / "flava.pt"
    write_torch_zip(path, seeded_state_dict(config))
    return path


def test_a_model_is_converted_in_half_its_size(large, tiny, tmp_path):
    """A checkpoint of 120 MB converts in 60 MB of memory, and every value arrives."""
    assert large.stat().st_size > 120 * MEGABYTE
    ran = _run("+60", tiny, large, tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert_converted(tmp_path / "out", torch.load(str(large), mmap=True), {})


@pytest.mark.slow
def test_the_limit_bites(large, tiny):
    """Under the same limit, loading the checkpoint whole runs out of memory."""
    ran = _run("+60", tiny, large, "load")
    assert ran.returncode == 1 and ("memory" in ran.stderr.lower()), ran.stderr


@pytest.mark.slow
def test_the_full_size_is_converted_in_a_quarter_of_a_gigabyte(tiny, tmp_path):
    """FLAVA as published has 1.2 GB; the quarter includes what Python itself takes."""
    write_torch_zip(tmp_path / "flava.pt", seeded_state_dict(FlavaConfig()))
    ran = _run("256", tiny, tmp_path / "flava.pt", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert_converted(tmp_path / "out", torch.load(str(tmp_path / "flava.pt"), mmap=True), {})
