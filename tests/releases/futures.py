"""Pretended releases of transformers: the installed one under another number, with one change.

A future is a folder for ``PYTHONPATH``. All that it does not change is linked to the installed files, so that making
one takes a moment and little room.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.readme import ROOT

INSTALLED = metadata.version("transformers")
NUMBER = "9.9.0"
MODELING, CONFIGURATION = "models/flava/modeling_flava.py", "models/flava/configuration_flava.py"


class Edit(NamedTuple):
    """A change of the text of a file: the first match of a pattern, or every one, is replaced."""

    file: str
    pattern: str
    by: str
    count: int = 1

    def of(self, text: str) -> str:
        edited, times = re.subn(self.pattern, self.by, text, count=self.count, flags=re.MULTILINE)
        assert times and edited != text, f"{self.file}: {self.pattern!r} is not in it"
        return edited


RENAMED_ON_SAVE = """
_save = FlavaForPreTraining.save_pretrained


def _save_renamed(self, folder, state_dict=None, **options):
    state_dict = {key.replace("layernorm_before", "norm_first"): value for key, value in self.state_dict().items()}
    return _save(self, folder, state_dict=state_dict, **options)


FlavaForPreTraining.save_pretrained = _save_renamed
"""

UNTIED = """
_built = FlavaForPreTraining.__init__


def _build_untied(self, *arguments, **options):
    _built(self, *arguments, **options)
    self.mlm_head.decoder.bias = nn.Parameter(self.mlm_head.bias.detach().clone())


FlavaForPreTraining.__init__ = _build_untied
if isinstance(FlavaForPreTraining._tied_weights_keys, dict):
    del FlavaForPreTraining._tied_weights_keys["mlm_head.bias"]
"""

# What a release might do to FLAVA, by what it does.
FUTURES: Mapping[str, tuple[Edit, ...]] = {
    "nothing": (),
    "a submodule renamed": (
        Edit(MODELING, r"self\.intermediate = FlavaIntermediate", "self.mlp_in = FlavaIntermediate"),
        Edit(MODELING, r"self\.intermediate\(", "self.mlp_in("),
    ),
    "a tie removed": (Edit(MODELING, r"\Z", UNTIED),),
    "a persistent buffer added": (
        Edit(MODELING, r"^( +)self\.token_type_embeddings = .*$", r'\g<0>\n\1self.register_buffer("scale", torch.zeros(7))'),
    ),
    "a default epsilon changed": (Edit(CONFIGURATION, r"layer_norm_eps(: float)?( = |=)1e-12", r"layer_norm_eps\1\g<2>1e-5", 0),),
    "an attention scale changed": (Edit(MODELING, r"math\.sqrt\(self\.attention_head_size\)", "self.attention_head_size"),),
    "keys renamed on save alone": (Edit(MODELING, r"\Z", RENAMED_ON_SAVE),),
}  # fmt: skip


def installed_text(file: str) -> str:
    """The installed text of a file of the package; empty where there is none."""
    path = _installed() / file
    return path.read_text() if path.exists() else ""


def _installed() -> Path:
    [folder] = find_spec("transformers").submodule_search_locations
    return Path(folder)


def make_future(folder: Path, *edits: Edit, number: str = NUMBER, without: str = "") -> Path:
    """Makes the future in the folder, which is then to be on ``PYTHONPATH``, and returns the folder.

    ``without`` names a file or a folder of the package that the future lacks.
    """
    installed = _installed()
    package = folder / "transformers"
    texts = {"__init__.py": (installed / "__init__.py").read_text().replace(f'__version__ = "{INSTALLED}"', f'__version__ = "{number}"')}
    for edit in edits:
        texts[edit.file] = edit.of(texts.get(edit.file) or (installed / edit.file).read_text())
    _link(installed, package, [*texts, *([without] if without else ())])
    for name, text in texts.items():
        (package / name).write_text(text)
    about = next(installed.parent.glob("transformers-*.dist-info"))
    (folder / f"transformers-{number}.dist-info").mkdir()
    said = (about / "METADATA").read_text().replace(f"Version: {INSTALLED}", f"Version: {number}", 1)
    (folder / f"transformers-{number}.dist-info" / "METADATA").write_text(said)
    return folder


def _link(installed: Path, copy: Path, left_out: list[str]) -> None:
    """Makes a folder with links to everything in another but what is left out; a folder in which something is is made likewise."""
    copy.mkdir()
    for path in installed.iterdir():
        inside = [name.partition("/")[2] for name in left_out if name.split("/")[0] == path.name]
        if not inside:
            (copy / path.name).symlink_to(path)
        elif "" not in inside:
            _link(path, copy / path.name, inside)


def run_under(future: Path, *arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What ``python -m`` with these arguments prints under the future, errors too, and its exit status."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(future), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",  # the installed package's compiled files are linked too
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
