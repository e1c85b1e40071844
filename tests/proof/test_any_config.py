"""For random configs the converted model computes what the original does: outputs, losses and gradients."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flava_port import convert_flava_checkpoint
from flava_port.files.torch_format import write_torch_zip
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof.certificate import Verdict
from flava_port.proof.claims import ABOUT_THE_PROCESSOR
from flava_port.verify import verify_flava_checkpoint
from tests.strategies import original_codebook_configs, original_configs


# An example takes a second: a few by default, many under the thorough profile.
@settings(max_examples=max(2, settings.default.max_examples // 16), phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(config=original_configs(one_width=True), codebook=original_codebook_configs(), seed=st.integers(0, 2**20))
def test_a_converted_model_of_any_config_computes_the_same(config, codebook, seed):
    """Every claim is proven; where one is not, the certificate says which module diverged."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_torch_zip(folder / "flava.pt", seeded_state_dict(config, seed))
        write_torch_zip(folder / "codes.pt", seeded_codebook(codebook, seed))
        fields = {**asdict(config), "hidden_size": config.multimodal_config.hidden_size, "image_codebook_config": asdict(codebook)}
        (folder / "config.json").write_text(json.dumps(fields))
        files = folder / "flava.pt", folder / "codes.pt"
        convert_flava_checkpoint(*files, folder / "out", folder / "config.json")
        certificate = verify_flava_checkpoint(*files, folder / "out", folder / "config.json")
        of_images = {check.name for check in ABOUT_THE_PROCESSOR}  # tests/proof/test_processor.py is about these
        assert all(claim.verdict is Verdict.PROVEN for claim in certificate.claims if claim.name not in of_images), certificate.table()
        assert torch.get_default_dtype() is torch.float32
