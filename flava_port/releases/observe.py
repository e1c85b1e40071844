"""Observes what the installed transformers and torch do with FLAVA, on one small seeded model.

flava-port observe FILE                         # in the environment of a test suite: pytest --observe FILE
python -m flava_port.releases.observe FILE      # the same, for environments that `drift` makes
"""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..target.installed import quiet
from ..target.keys import POSITION_IDS
from ..target.schema import observe_schema
from .circumstances import plain_circumstances
from .facts import observe_configs, observe_interface
from .folders import observe_classes, observe_loaded, observe_saved, observe_saved_values
from .observation import Observation, Run, write
from .processing import observe_processing, observe_processors
from .runs import observe_runs
from .small_model import new_model, small_config
from .two_processes import observe_two_processes


def observe_installed(*, fresh: bool = False) -> Observation:
    """An observation of the environment in which this runs; takes some 20 seconds.

    ``fresh`` says that this process has done nothing else before, so that it can fork two that share a batch.
    """
    with _prepared() as folder:
        together = observe_two_processes() if fresh else {}
        narrow = _observed(folder, {**observe_runs(), **together})
        facts = {
            "interface": observe_interface(),
            "config": observe_configs(),
            "saving": observe_saved_values(folder),
            "loading": observe_classes(folder),
            "processing": observe_processors(folder / "ours"),
        }
        return replace(narrow, facts=facts)


def observe_in_short() -> Observation:
    """What `observe_installed` finds in the circumstances that need no other model, and none of its facts; takes three seconds."""
    with _prepared() as folder:
        return _observed(folder, observe_runs(plain_circumstances()))


def _observed(folder: Path, runs: dict[str, Run]) -> Observation:
    import transformers

    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "python": platform.python_version()}
    schema, initial, saved, loaded = observe_schema(), observe_initial(), observe_saved(folder), observe_loaded(folder)
    runs = runs | observe_processing(folder / "ours", small_config())
    return Observation(versions, schema, initial, saved, loaded, runs, machine=machine())


@contextmanager
def _prepared() -> Iterator[Path]:
    """A scratch folder; while the block runs, nothing is printed and torch has one thread."""
    with one_thread(), quiet(), tempfile.TemporaryDirectory(prefix="flava_port-") as scratch:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        yield Path(scratch)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: in some releases random values depend on their number, and tiny models run faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine() -> str:
    """The processor and the build of torch. Where they are equal, so is the rounding of equal computations."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    capability = getattr(torch.backends.cpu, "get_cpu_capability", str)()
    return f"{platform.machine()}, {names[0] if names else platform.processor()}, {capability}, torch {torch.__version__}"


def observe_initial() -> dict[str, str]:
    """How each parameter of a new model is initialised: to one value throughout, or at random, with the deviation to one digit.

    And whether it is frozen, as the codebook's are.
    """
    torch.manual_seed(0)
    state = new_model().state_dict(keep_vars=True)
    found = {key: _initialised(value.detach()) + _frozen(value) for key, value in state.items() if key != POSITION_IDS}
    return found | {f"all that is random in {what}": spread for what, spread in _spreads(state).items()}


def _spreads(state: Mapping[str, Tensor]) -> dict[str, str]:
    """By part of the model: the deviation of its random values, to two digits, and whether any lies far out."""
    parts: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        if value.is_floating_point() and _initialised(value.detach()).startswith("random"):
            kind = "embeddings" if "embeddings" in key else "convolutions" if value.ndim == 4 else "matrices"
            parts.setdefault(kind, []).append(value.detach().flatten())
    joined = {kind: torch.cat(values) for kind, values in parts.items()}
    return {kind: f"{float(v.std()):.1e}, {'some' if v.abs().max() > 3 * v.std() else 'none'} beyond 3" for kind, v in joined.items()}


def _frozen(value: Tensor) -> str:
    return "" if value.requires_grad or not isinstance(value, torch.nn.Parameter) else ", without a gradient"


def _initialised(value: Tensor) -> str:
    if value.numel() and bool((value == value.flatten()[0]).all()):
        return f"{float(value.flatten()[0]):g} throughout"
    return f"random, {float(value.float().std()):.0e}" if value.numel() >= 500 else "random"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    write(observe_installed(fresh=True), Path(sys.argv[1]))
