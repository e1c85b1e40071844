"""Replaces a folder in forks of one process, each killed before another line of the code that replaces it.

Started as a program, ``python -m tests.files.killed FOLDER HOW STEP``, where each ``STEP``-th line is one to be killed
before. Prints a JSON list with what each kill left, what the next run said of it, and what was there then. The last
fork is not killed.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from flava_port.files import replacing, staging
from flava_port.files.owned import owned_in, written_in
from tests.refusal import listing

RECORD = json.dumps({"tensors": {"w": {"file": "model.safetensors"}}})
OLD = {"config.json": "old", "model.safetensors": "old", "conversion.json": RECORD}
NEW = {"config.json": "new", "model.safetensors": "new", "preprocessor_config.json": "new", "conversion.json": RECORD + " "}
OTHERS = {".git/HEAD": "ref", ".git/objects/ab/cd": "blob", "README.md": "mine", "tokenizer.json": "{}", "empty/.keep": ""}
LINES = (staging.__file__, replacing.__file__)


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def replace(target: Path) -> None:
    with staging.staged(target, owned_in(target)) as folder:
        fill(folder, NEW)


def die_before(line: int) -> None:
    """Kills this process before it runs a line of these modules, counted from 0."""
    lines = iter(range(line))

    def trace(frame, event, _argument):
        if frame.f_code.co_filename not in LINES:
            return None
        if event == "line" and next(lines, None) is None:
            os._exit(9)
        return trace

    sys.settrace(trace)


def texts(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in sorted(listing(folder).items()) if content is not None}


def main(root: Path, how: str, step: int) -> list[tuple[dict, list[str], dict]]:
    if how == "without a swap":
        replacing._SWAPS = ()
    found = []
    for line in range(0, 1000, step):
        place = root / str(line)
        fill(place / "out", OLD if how == "alone" else {**OLD, **OTHERS})
        if not (child := os.fork()):
            die_before(line)
            replace(place / "out")
            os._exit(0)
        was_killed = os.waitpid(child, 0)[1] != 0
        left = texts(place)
        notes = staging.clear_leftovers(place / "out", written_in)
        replace(place / "out")
        found.append((left, notes, texts(place)))
        shutil.rmtree(place)
        if not was_killed:
            return found
    raise AssertionError("never ended")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
