"""What runs inside of each release's environment: converts and saves, and loads what all the others wrote.

python -m tests.releases.inside make FOLDER      # FOLDER/converted, FOLDER/saved and FOLDER/repaired
python -m tests.releases.inside load FILE FOLDER ...   # how each FOLDER loads, as JSON in FILE
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from flava_port import convert_flava_checkpoint
from flava_port.original.flava import Flava
from flava_port.proof.forward import relative_error, run_converted, run_original
from flava_port.proof.scenarios import Scenario, scenarios
from flava_port.releases.drift import ROUNDING
from flava_port.repair import repair_model_folder
from flava_port.target.installed import load_model, quiet
from tests.builders import tiny_state_dict, write_tiny

RIGHT = "right"


def make(folder: Path) -> None:
    """Converts the tiny checkpoint, has transformers load and save it, and repairs what it saved."""
    (folder / "original").mkdir(parents=True)
    files = write_tiny(folder / "original")
    convert_flava_checkpoint(files.checkpoint, files.codebook, folder / "converted")
    model, _ = load_model(folder / "converted")
    model.save_pretrained(folder / "saved")
    repair_model_folder(folder / "saved", folder / "repaired")


def load(file: Path, folders: list[Path]) -> None:
    file.write_text(json.dumps([how_it_loads(folder) for folder in folders]))


def how_it_loads(folder: Path) -> str:
    """``right`` where the logits are the original's; else how far off they are, or the error."""
    ours = Flava.from_state_dict(tiny_state_dict()).double().eval()
    try:
        theirs = load_model(folder)[0].double()
        with quiet(), torch.no_grad():
            errors = {
                f"{case.name}: {name}": error
                for case in _cases(ours)
                for name, error in _errors(run_converted(theirs, case), run_original(ours, case))
            }
    except Exception as error:
        return f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
    wrong = {name: error for name, error in errors.items() if not error <= ROUNDING}
    return f"{len(wrong)} of {len(errors)} outputs wrong, by up to {max(wrong.values()):.0e}" if wrong else RIGHT


def _cases(ours: Flava) -> list[Scenario]:
    """Inputs that reach every head; no padding and no mismatched pairs, which some releases compute otherwise."""
    pairs, images, texts, *_ = (case.to(torch.float64) for case in scenarios(ours))
    plain = {name: value for name, value in pairs.inputs.items() if name not in ("attention_mask", "itm_labels")}
    return [replace(pairs, inputs=plain), images, texts]


def _errors(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, float]]:
    return ((name, relative_error(actual[name], value)) for name, value in expected.items() if name in actual)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        load(Path(sys.argv[2]), [Path(folder) for folder in sys.argv[3:]])
