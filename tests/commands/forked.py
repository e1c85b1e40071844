"""Runs commands in forks of one process that has imported everything, and sends each fork a signal after a while.

Started as a program, it reads requests from stdin and answers each with a line, both in JSON. A
fresh interpreter takes seconds to import torch and transformers; a fork is at work at once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended: its exit status (minus the signal's number, if a signal killed it), its stderr, and the seconds it ran."""

    status: int
    err: str
    seconds: float


@contextmanager
def forks():
    """Gives ``run(arguments, number, delay)``: runs a command and sends it signal ``number`` after ``delay`` seconds."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.commands.forked"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(arguments, number: int = 0, delay: float = 60.0) -> Ended:
            print(json.dumps([[str(argument) for argument in arguments], number, delay]), file=process.stdin, flush=True)
            return Ended(*json.loads(process.stdout.readline()))

        try:
            yield run
        finally:
            process.stdin.close()


def serve() -> None:
    import transformers.models.flava.modeling_flava  # noqa: F401  imported so that no fork has to

    import flava_port.codebook
    import flava_port.revert  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(run_forked(*json.loads(line))), flush=True)


def run_forked(arguments: list[str], number: int, delay: float) -> Ended:
    with tempfile.TemporaryFile() as err:
        ready, tell = os.pipe()
        if not (child := os.fork()):
            run_command(arguments, err.fileno(), tell)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        start = time.monotonic()
        status = None
        while status is None and time.monotonic() - start < delay:
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.0005)
        if status is None:
            os.kill(child, number or signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - start
        err.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), err.read().decode(), seconds)


def run_command(arguments: list[str], err: int, tell: int) -> None:
    """Runs in the fork and never returns. It writes a byte to ``tell`` when the command begins its work."""
    from flava_port import cli, commands

    convert = commands.convert

    def tell_and_convert(options: Namespace) -> int:
        os.write(tell, b"!")
        return convert(options)

    status = 99
    try:
        commands.convert = tell_and_convert
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve()
