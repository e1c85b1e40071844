"""Prints who catches what: `python -m tests.proof.table`. The table in docs/power.md is this."""

import contextlib
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from flava_port import convert_flava_checkpoint
from flava_port.convert import count_parameters
from flava_port.proof.certificate import Certificate, Verdict
from flava_port.proof.claims import ABOUT_THE_FILES, ABOUT_THE_LOADING
from flava_port.verify import verify_flava_checkpoint
from tests.builders import tiny_codebook, tiny_state_dict, write_tiny
from tests.proof.faults import FAULTS, VALUES, plant

COMPUTATION = ("forward", "losses", "gradients", "codebook")
CONFIGS, FILES = ("config", "processor config"), ("other weights",)
COLUMNS = {
    "weights": tuple(check.name for check in ABOUT_THE_FILES if check.name not in (*CONFIGS, *FILES)),
    "configs": CONFIGS,
    "other files": FILES,
    "loading": (*(check.name for check in ABOUT_THE_LOADING), "loaded values"),
    "computation": COMPUTATION,
}


def upstream_accepts(folder: Path) -> bool:
    """Whether upstream's only check passes, after its strict load: the sums of all values agree within its tolerance."""
    weights = load_file(folder / "model.safetensors")
    original = {**tiny_state_dict(), **{f"image_codebook.{key}": value for key, value in tiny_codebook().items()}}
    ours = count_parameters({key: value for key, value in weights.items() if "position_ids" not in key})
    theirs = count_parameters({key: value for key, value in original.items() if "position_ids" not in key})
    return bool(torch.allclose(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-3))


def _caught(certificate: Certificate, names: tuple[str, ...]) -> str:
    verdicts = {claim.verdict for claim in certificate.claims if claim.name in names and not claim.left_open}
    return "caught" if Verdict.DIFFERS in verdicts else "not proven" if Verdict.NOT_PROVEN in verdicts else ""


def main() -> None:
    torch.set_num_threads(1)
    totals = dict.fromkeys((*COLUMNS, "upstream's sum"), 0)
    print("| fault | " + " | ".join(totals) + " |\n|---|" + "---|" * len(totals))
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(None):
        folder = Path(name)
        files = write_tiny(folder)
        convert_flava_checkpoint(files.checkpoint, files.codebook, folder / "clean")
        for number, fault in enumerate(FAULTS):
            faulty = folder / str(number)
            plant(fault, folder / "clean", faulty)
            certificate = verify_flava_checkpoint(files.checkpoint, files.codebook, faulty)
            row = {column: _caught(certificate, claims) for column, claims in COLUMNS.items()}
            strict_load = fault.name.startswith(("a key", "both bias keys missing"))
            row["upstream's sum"] = "caught" if fault in VALUES and (strict_load or not upstream_accepts(faulty)) else ""
            for column, caught in row.items():
                totals[column] += caught == "caught"
            print(f"| {fault.name} | " + " | ".join(row.values()) + " |")
    print(f"| **of {len(FAULTS)}** | " + " | ".join(f"**{count}**" for count in totals.values()) + " |")


if __name__ == "__main__":
    main()
