"""The benchmark runs from the command line, and reports each program."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_speed_benchmark_reports_every_program(tmp_path):
    """At the demo's size, one round, without upstream."""
    options = "--sizes", "tiny", "--rounds", "1", "--no-upstream", "--files", tmp_path
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *map(str, options)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for program in ("import torch", "copy, sync, read", "convert", "verify --weights-only", "revert"):
        assert f"| {program} |" in ran.stdout
