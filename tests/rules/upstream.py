"""What the upstream converter does to keys, as fixtures that transformers 4.47.1's own code made.

``python -m tests.rules.upstream`` makes them again, in an environment with transformers==4.47.1.
"""

import ast
import inspect
import json
from pathlib import Path

import torch

FIXTURES = Path(__file__).parents[2] / "fixtures"
RULES = FIXTURES / "rules_upstream.json"
KEYS = FIXTURES / "keys_upstream.json"
REGENERATE = "transformers==4.47.1 has the converter; there, run: python -m tests.rules.upstream"


def recorded_rules() -> dict:
    """The replacements and drops of FLAVA's keys in upstream's source, in its order."""
    return json.loads(RULES.read_text())


def recorded_keys(table: str) -> dict[str, str | None]:
    """What upstream makes of each key; None where it drops the key."""
    return json.loads(KEYS.read_text())[table]


def converters():
    """Upstream's two `upgrade_state_dict`, FLAVA's and the codebook's.

    Raises:
        ImportError: the installed transformers has no converter.
    """
    from transformers.models.flava import convert_dalle_to_flava_codebook as codebook
    from transformers.models.flava import convert_flava_original_pytorch_to_hf as flava

    return flava.upgrade_state_dict, codebook.upgrade_state_dict


def target_of(key: str, table: str) -> str | None:
    """The key that upstream makes of a key; None where it drops it."""
    flava, codebook = converters()
    made = flava({key: torch.ones(1)}, {}) if table == "flava" else codebook({key: torch.ones(1)})
    return next(iter(made), None)


def _rules_in_source() -> dict:
    tree = ast.parse(inspect.getsource(converters()[0]))
    replacements = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "replace"]
    replacements.sort(key=lambda call: call.lineno)
    dropped = [n.left.value for n in ast.walk(tree) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.In)]
    return {"drops": dropped, "rules": [[argument.value for argument in call.args] for call in replacements]}


def main() -> None:
    from tests.rules.hostile_keys import hostile_codebook_keys, hostile_keys
    from tests.strategies import codebook_keys, original_keys

    origin = f"transformers 4.47.1's upgrade_state_dict. {REGENERATE}"
    flava = [*original_keys(), *hostile_keys()]
    codebook = [*codebook_keys(), *hostile_codebook_keys()]
    targets = {
        "origin": origin,
        "flava": {key: target_of(key, "flava") for key in flava},
        "codebook": {key: target_of(key, "codebook") for key in codebook},
    }
    RULES.write_text(json.dumps({"origin": origin, **_rules_in_source()}, indent=1) + "\n")
    KEYS.write_text(json.dumps(targets, indent=0) + "\n")
    print(f"{KEYS}: {len(flava)} and {len(codebook)} keys")


if __name__ == "__main__":
    main()
