"""Runs a program and asks the operating system what it took."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Taken:
    """Wall and CPU time in seconds, peak resident memory in bytes."""

    wall: float
    cpu: float
    peak: int


def measure(command: list[str | Path], environment: dict[str, str] | None = None) -> Taken:
    """Runs it to its end.

    Raises:
        SystemExit: it fails; with its output.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{output.decode(errors='replace')[-4000:]}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Taken(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * kilobyte)


def medians(runs: list[Taken]) -> Taken:
    return Taken(median(r.wall for r in runs), median(r.cpu for r in runs), int(median(r.peak for r in runs)))
