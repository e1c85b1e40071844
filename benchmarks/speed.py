"""Time and memory of convert, revert and verify beside upstream's converter, a plain copy and the import of torch.

    python -m benchmarks.speed                       # default size, three rounds
    python -m benchmarks.speed --sizes default 900m 1.8b --rounds 3 --verify --write
    python -m benchmarks.speed --sizes tiny --rounds 1 --no-upstream    # shows that it runs

Every round runs each program once, one after another, so that a busy moment does not favour one of
them. Upstream is transformers 4.47.1, the last release that ships its converter, in an environment
of its own, made if it is not there.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import Taken, measure, medians
from benchmarks.sizes import SIZES, Files, checkpoint_bytes, make
from tests.readme import write_section

UPSTREAM = "transformers==4.47.1"
CONVERTER = "transformers.models.flava.convert_flava_original_pytorch_to_hf"
MEGABYTE, GIGABYTE = 10**6, 10**9

_COPY = """
import os, shutil, sys
for source in sys.argv[2:]:
    with open(source, 'rb') as file, open(sys.argv[1], 'wb') as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush(); os.fsync(copy.fileno())
    with open(sys.argv[1], 'rb') as copy:
        while copy.read(1 << 20): pass
"""

_LOAD_AND_PASS = """
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
model = transformers.FlavaForPreTraining.from_pretrained(sys.argv[1]).eval()
size = model.config.image_config.image_size
with torch.no_grad():
    model(input_ids=torch.ones(1, 12, dtype=torch.long), pixel_values=torch.rand(1, 3, size, size), return_loss=False)
"""


def programs(files: Files, work: Path, upstream: Path | None, full: bool) -> dict[str, Callable[[], Taken]]:
    """The programs by name, in the order in which they run."""
    python, converted = sys.executable, work / "converted"
    ours = [python, "-m", "flava_port"]
    both = ["--checkpoint_path", files.checkpoint, "--codebook_path", files.codebook]
    reverted = ["--checkpoint_path", work / "reverted.pt", "--codebook_path", work / "codebook.pt"]
    found = {
        "import torch": lambda: measure([python, "-c", "import torch"]),
        "copy, sync, read": lambda: measure([python, "-c", _COPY, work / "copy", files.checkpoint, files.codebook]),
        "convert": lambda: measure([*ours, "convert", *both, "--pytorch_dump_folder_path", converted, "--force", "--quiet"]),
        "verify --weights-only": lambda: measure([*ours, "verify", *both, "--converted_path", converted, "--weights-only", "--quiet"]),
        "revert": lambda: measure([*ours, "revert", "--converted_path", converted, *reverted, "--force", "--quiet"]),
    }
    if full:
        found["load the folder, one pass"] = lambda: measure([python, "-c", _LOAD_AND_PASS, converted])
        found["verify"] = lambda: measure([*ours, "verify", *both, "--converted_path", converted, "--quiet"])
    if upstream:
        there = [upstream, "-m", CONVERTER, *both, "--config_path", files.config, "--pytorch_dump_folder_path", work / "upstream"]
        found["upstream's convert"] = lambda: measure(there)
    return found


def run(size: str, options: argparse.Namespace, upstream: Path | None) -> dict[str, Taken]:
    """Every program's medians at one size."""
    files = make(size, options.files)
    runs: dict[str, list[Taken]] = {}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.files) as folder:
            for name, program in programs(files, Path(folder), upstream, options.verify).items():
                runs.setdefault(name, []).append(program())
                print(f"{size}, round {number + 1}: {name} {runs[name][-1].wall:.1f} s", file=sys.stderr)
    return {name: medians(taken) for name, taken in runs.items()}


def table(results: dict[str, dict[str, Taken]], sizes: dict[str, int]) -> str:
    """A markdown row a program and size."""
    lines = ["| size | | wall, s | CPU, s | peak, MB | MB/s |", "|---|---|---|---|---|---|"]
    for size, found in results.items():
        for name, taken in found.items():
            speed = f"{sizes[size] / taken.wall / MEGABYTE:,.0f}" if name != "import torch" else ""
            lines.append(
                f"| {size}, {sizes[size] / GIGABYTE:.1f} GB | {name} | {taken.wall:.1f} | {taken.cpu:.1f} | {taken.peak / MEGABYTE:,.0f} | {speed} |"
            )
    return "\n".join(lines)


def ratios(results: dict[str, dict[str, Taken]], sizes: dict[str, int]) -> str:
    """How convert's time and memory compare with the import of torch, a copy, upstream's converter, and other sizes."""
    lines = []
    for size, found in results.items():
        bare = found["import torch"].wall + found["copy, sync, read"].wall
        lines.append(f"- {size}: convert takes {found['convert'].wall / bare:.2f} times the import of torch and a copy, synced and read")
        if theirs := found.get("upstream's convert"):
            time, memory = theirs.wall / found["convert"].wall, theirs.peak / found["convert"].peak
            lines.append(f"- {size}: upstream takes {time:.1f} times as long as convert, and {memory:.0f} times the memory")
        if proof := found.get("verify"):
            once = found["load the folder, one pass"].wall
            lines.append(f"- {size}: verify takes {proof.wall / once:.1f} times as long as loading the folder and one pass")
    peaks = {size: found["convert"].peak for size, found in results.items()}
    if len(peaks) > 1:
        smallest, largest = min(peaks.values()), max(peaks.values())
        lines.append(f"- convert's peak memory varies by {100 * (largest / smallest - 1):.0f} % over {', '.join(peaks)}")
        (first, *_, last) = results
        slope = (results[last]["convert"].wall - results[first]["convert"].wall) / (sizes[last] - sizes[first])
        ten = checkpoint_bytes("10b")
        if "verify" in results[first] and "verify" in results[last]:
            steep = (results[last]["verify"].wall - results[first]["verify"].wall) / (sizes[last] - sizes[first])
            lines.append(
                f"- verify of 10b would follow in {results[last]['verify'].wall + steep * (ten - sizes[last]):.0f} s on this machine"
            )
        seconds = results[last]["convert"].wall + slope * (ten - sizes[last])
        lines.append(f"- 10b would follow with {ten / GIGABYTE:.0f} GB in {seconds:.0f} s and the same memory, in shards of 5 GB")
    return "\n".join(lines)


def upstream_python(folder: Path) -> Path:
    """The Python of an environment with upstream's converter; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        packages = [f"torch=={version('torch').split('+')[0]}", UPSTREAM, "attrs", "requests"]
        if shutil.which("uv"):
            subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
            install = ["uv", "pip", "install", "--quiet", "--python", python]
        else:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *packages], check=True)
        subprocess.run([*install, "--no-deps", "DALL-E==0.1"], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["default"], choices=list(SIZES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--files",
        type=Path,
        default=Path(tempfile.gettempdir()) / "flava-port-benchmark",
        help="where the checkpoints are made and kept (default: %(default)s)",
    )
    parser.add_argument("--upstream", type=Path, metavar="PYTHON", help=f"a Python with {UPSTREAM} and DALL-E; default: made in --files")
    parser.add_argument("--no-upstream", action="store_true", help="leave upstream out")
    parser.add_argument("--verify", action="store_true", help="run the whole of verify too, and beside it load the folder for one pass")
    parser.add_argument("--write", action="store_true", help="write the table into docs/speed.md")
    options = parser.parse_args()
    options.files.mkdir(parents=True, exist_ok=True)
    upstream = None if options.no_upstream else options.upstream or upstream_python(options.files / "upstream")
    results = {size: run(size, options, upstream) for size in options.sizes}
    sizes = {size: make(size, options.files).bytes for size in options.sizes}
    versions = ", ".join(f"{name} {version(name)}" for name in ("flava-port", "torch", "transformers"))
    report = f"{table(results, sizes)}\n\n{ratios(results, sizes)}\n\nMedians of {options.rounds} rounds; {versions}; upstream: {UPSTREAM}."
    print(report)
    if options.write:
        write_section("speed", report)


if __name__ == "__main__":
    main()
