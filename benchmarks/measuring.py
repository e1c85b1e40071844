"""Runs a program and asks the operating system what it took."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Taken:
    """Wall and CPU time in seconds, peak resident memory in bytes."""

    wall: float
    cpu: float
    peak: int


# Run by a small process of its own: a program's peak begins with what its parent held when it was started.
_WATCH = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
wall = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def measure(command: list[str | Path], environment: dict[str, str] | None = None) -> Taken:
    """Runs a program to its end.

    Raises:
        SystemExit: the program fails; with the end of its stderr.
    """
    watched = [sys.executable, "-S", "-c", _WATCH, *map(str, command)]
    ran = subprocess.run(watched, capture_output=True, text=True, errors="replace", env={**os.environ, **(environment or {})}, check=True)
    status, wall, cpu, peak = json.loads(ran.stdout)
    if status:
        sys.exit(f"{' '.join(map(str, command))}\n{ran.stderr[-4000:]}")
    return Taken(wall, cpu, peak * (1 if sys.platform == "darwin" else 1024))


def medians(runs: list[Taken]) -> Taken:
    return Taken(median(r.wall for r in runs), median(r.cpu for r in runs), int(median(r.peak for r in runs)))
