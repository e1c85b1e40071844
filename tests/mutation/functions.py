"""Lets mutmut make and run mutants of the functions that convert, in a copy: ``python -m tests.mutation.functions``.

The exit status is 1 if a mutant survives that is not in `EQUIVALENT`, or if a mutant in `EQUIVALENT` does not survive.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT

from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.in_a_copy import COPIED, copy_to

MODULES = (
    "rules/engine",
    "rules/tables",
    "rules/describe",
    "convert",
    "to_torchmultimodal",
    "codebook",
    "conversion/account",
    "conversion/plan",
    "target/sizes",
)
TESTS = (
    "tests/rules",
    "tests/conversion",
    "tests/reading",
    "tests/commands",
    "tests/target",
    "tests/files/test_urls.py",
)
# Slow tests, none of which is needed to kill a mutant.
LEFT_OUT = (
    "rules/test_order.py",
    "rules/test_interop.py",
    "rules/test_upstream_differential.py",
    "conversion/test_memory.py",
    "commands/test_documents.py",
    "commands/test_interrupted_commands.py",
)
_LINE = re.compile(r"^\s*(\S+__mutmut_\d+): (survived|no tests|timeout|suspicious)", re.MULTILINE)


def main() -> int:
    if find_spec("mutmut") is None:
        print("mutmut is not installed; run: tox -e mutation")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_to(copy)
        (copy / "setup.cfg").write_text(configuration())
        environment = {**os.environ, "FLAVA_PORT_PROFILE": "fast", "PYTHONDONTWRITEBYTECODE": ""}

        def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "mutmut", *arguments]
            return subprocess.run(command, cwd=copy, env=environment, stdout=PIPE, stderr=STDOUT, text=True, check=False)

        ran = mutmut("run")
        alive = [match[0] for match in _LINE.findall(mutmut("results").stdout)]
        shown = {name: _change(mutmut("show", name).stdout) for name in alive}
    if ran.returncode != 0 or "mutations/second" not in ran.stdout:
        print(ran.stdout[-3000:])
        return 2
    return _verdict(shown, ran.stdout)


def _change(difference: str) -> str:
    """The line that the mutant has in place of ours."""
    return "\n".join(line[1:].strip() for line in difference.splitlines() if line.startswith("+") and not line.startswith("+++"))


def _verdict(alive: dict[str, str], output: str) -> int:
    total = max(map(int, re.findall(r"\d+/(\d+)", output)))
    survivors = {name: change for name, change in alive.items() if change not in EQUIVALENT}
    stale = EQUIVALENT.keys() - set(alive.values())
    for name, change in survivors.items():
        print(f"SURVIVES  {name}\n    {change}")
    for change in alive.values():
        if change in EQUIVALENT:
            print(f"equivalent  {change}\n    because {EQUIVALENT[change]}")
    print(*(f"listed as equivalent, but is none: {change}" for change in stale), sep="\n")
    killed = total - len(alive)
    print(f"{total} mutants of functions: {killed} killed, {len(survivors)} surviving, {len(alive) - len(survivors)} equivalent")
    return 1 if survivors or stale else 0


def configuration() -> str:
    """mutmut's settings, as a setup.cfg."""

    def indented(entries: Iterable[str]) -> str:
        return "".join(f"\n    {entry}" for entry in entries)

    paths = indented(f"flava_port/{name}.py" for name in MODULES)
    ignored = indented(["-x", "-q", "-p", "no:cacheprovider", *(f"--ignore=tests/{name}" for name in LEFT_OUT)])
    also = indented(COPIED)
    options = {
        "source_paths": paths,
        "also_copy": also,
        "pytest_add_cli_args": ignored,
        "pytest_add_cli_args_test_selection": indented(TESTS),
    }
    return "[mutmut]\n" + "".join(f"{name}={value}\n" for name, value in options.items())


if __name__ == "__main__":
    sys.exit(main())
