"""Whatever `convert` writes, with any of its options and any config that it accepts, `verify` proves from the same files and config."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flava_port import convert_flava_checkpoint, convert_to_torchmultimodal, verify
from flava_port.files.torch_tensors import load
from flava_port.original.config import ACTIVATIONS, CodebookConfig, FlavaConfig
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof.certificate import Verdict
from flava_port.target.parts import PARTS
from tests.strategies import original_codebook_configs, original_configs

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Conversion(NamedTuple):
    """What is converted, and how."""

    config: FlavaConfig
    codebook: CodebookConfig | None
    seed: int
    dtype: torch.dtype
    codebook_dtype: torch.dtype
    layout: str
    stated: dict  # further fields of the given config; nothing: no config is given
    options: dict


def stated_fields():
    """``{"top": {"mlm_weight": 0.5}, "sections": {"layer_norm_eps": 1e-6}}``: what no shape tells, and what means nothing."""
    epsilons, losses = st.sampled_from((1e-12, 1e-6, 1e-5)), st.sampled_from((0.5, 2.0, 1))
    top = st.fixed_dictionaries(
        {}, optional={"mlm_weight": losses, "return_loss": st.booleans(), "num_beams": st.just(3), "mine": st.just("x")}
    )
    acts = st.sampled_from(sorted(set(ACTIVATIONS) & {"gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"}))
    sections = st.fixed_dictionaries(
        {"hidden_act": acts}, optional={"layer_norm_eps": epsilons, "hidden_dropout_prob": st.just(0.1), "is_decoder": st.booleans()}
    )
    return st.fixed_dictionaries({"top": top, "sections": sections})


def conversions(one_width: bool = False):
    """`Conversion`s of every layout and part, with a codebook or without, a config or without, in one file or several."""
    options = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(("float32", "keep")),
            "max_shard_size": st.just("20KB"),
            "part": st.sampled_from(sorted(PARTS)),
            "no_codebook": st.just(True),
        },
    )
    dtypes = st.sampled_from(DTYPES)
    codebooks = st.none() | original_codebook_configs()
    layouts = st.sampled_from(("original", "torchmultimodal", "hf"))
    return st.builds(
        Conversion, original_configs(), codebooks, st.integers(0, 99), dtypes, dtypes, layouts, st.just({}) | stated_fields(), options
    )


def save(path: Path, tensors: dict, dtype: torch.dtype) -> Path:
    loaded = {key: load(tensor) for key, tensor in tensors.items()}
    torch.save({key: value.to(dtype) if value.is_floating_point() else value for key, value in loaded.items()}, path)
    return path


def written_config(folder: Path, conversion: Conversion) -> Path | None:
    if not conversion.stated:
        return None
    fields = asdict(conversion.config) | {"hidden_size": conversion.config.multimodal_config.hidden_size} | conversion.stated["top"]
    for name in ("image_config", "text_config", "multimodal_config"):
        fields[name] |= conversion.stated["sections"]
    if conversion.codebook is not None:
        fields["image_codebook_config"] = asdict(conversion.codebook)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def files_of(folder: Path, conversion: Conversion) -> tuple[Path, Path | None, Path | None]:
    """The checkpoint in its layout, the codebook where it has a file of its own, and the config where one is given."""
    checkpoint = save(folder / "flava.pt", seeded_state_dict(conversion.config, conversion.seed), conversion.dtype)
    codebook = conversion.codebook
    codes = save(folder / "codes.pt", seeded_codebook(codebook, conversion.seed), conversion.codebook_dtype) if codebook else None
    config = written_config(folder, conversion)
    if conversion.layout == "original":
        return checkpoint, codes, config
    source, more = folder / conversion.layout, {"no_codebook": True} if codes is None else {}
    if conversion.layout == "hf":
        convert_flava_checkpoint(checkpoint, codes, source, config, dtype="keep", **more)
    else:
        convert_to_torchmultimodal(checkpoint, codes, source, dtype="keep", **more)
    return source, None, config


def prove(conversion: Conversion, *, computation: bool):
    """Converts and verifies, with all claims or without those that run the models."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        if not computation:
            stack.enter_context(mock.patch.object(verify, "about_the_computation", lambda _: []))
            stack.enter_context(mock.patch.object(verify, "ABOUT_THE_PROCESSOR", ()))
        folder = Path(name)
        checkpoint, codebook, config = files_of(folder, conversion)
        layout = {"layout": conversion.layout} if conversion.layout == "hf" else {}
        options = conversion.options
        if options.get("part") or options.get("no_codebook"):
            codebook = None
        if options.get("part"):
            options = {name: value for name, value in options.items() if name != "no_codebook"}
        convert_flava_checkpoint(checkpoint, codebook, folder / "out", config, **layout, **options)
        given = {"no_codebook": True} if options.get("no_codebook") else {}
        return verify.verify_flava_checkpoint(checkpoint, codebook, folder / "out", config, **layout, **given)


# An example takes a third of a second.
@settings(max_examples=max(3, settings.default.max_examples // 12), phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(conversions())
def test_whatever_is_written_is_proven_to_hold_and_to_load_as_the_original(conversion):
    """All claims about the files, the configs and what transformers loads."""
    certificate = prove(conversion, computation=False)
    assert certificate.verdict is Verdict.PROVEN, certificate.table()


@pytest.mark.slow
@settings(max_examples=40, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(conversions(one_width=True).filter(lambda c: not c.options.get("part")))
def test_whatever_is_written_computes_the_same(conversion):
    """All claims; a claim that is left open has nothing to judge, and torchmultimodal's own code may lie farther off than its tests allow."""
    certificate = prove(conversion, computation=True)
    left = [claim for claim in certificate.claims if claim.verdict is not Verdict.PROVEN and not claim.left_open]
    assert not [claim for claim in left if claim.name != "as torchmultimodal"], certificate.table()
