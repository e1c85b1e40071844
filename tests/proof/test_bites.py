"""The forward proof is shown to fail: transformers' FLAVA is mutated in memory, and each mutant is caught and located."""

import math
from functools import cache
from unittest import mock

import pytest
import torch

from flava_port import convert_flava_checkpoint, verify
from flava_port.proof import bounds
from flava_port.proof.certificate import Verdict
from flava_port.target import installed
from flava_port.verify import verify_flava_checkpoint


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


def _verify(tiny, converted) -> dict:
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    assert certificate.verdict is Verdict.DIFFERS, certificate.table()
    return {claim.name: claim for claim in certificate.claims}


def _edited(change):
    """The loader, with ``change`` applied to the model it returns."""
    from flava_port.proof import sides

    load_model = sides.load_model

    def load(folder):
        model, version = load_model(folder)
        change(model)
        return model, version

    return mock.patch.object(sides, "load_model", load)


def _set_epsilon(model) -> None:
    model.flava.text_model.encoder.layer[1].layernorm_after.eps = 1e-6


def _set_activation(model) -> None:
    model.flava.image_model.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()


def _set_head_epsilon(model) -> None:
    model.mmm_image_head.transform.LayerNorm.eps = 1e-5


def _set_attention_scale(model) -> None:
    query = model.flava.multimodal_model.encoder.layer[0].attention.attention.query
    query.register_forward_hook(lambda _module, _inputs, output: output * math.sqrt(2))


def _shift_positions(model) -> None:
    embeddings = model.flava.text_model.embeddings.position_embeddings
    embeddings.register_forward_pre_hook(lambda _module, inputs: (inputs[0].roll(1, -1),))


def _ignore_the_mask(model) -> None:
    for layer in model.flava.text_model.encoder.layer:
        layer.attention.register_forward_pre_hook(lambda _m, _i, kwargs: (_i, {**kwargs, "attention_mask": None}), with_kwargs=True)


def _pool_another_token(model) -> None:
    model.itm_head.pooler.register_forward_pre_hook(lambda _module, inputs: (inputs[0].roll(1, 1),))


# Each mutant, and what the report must name: the first module to diverge.
MUTANTS = {
    "a layer norm's epsilon": (_set_epsilon, "flava.text_model.encoder.layer.1.layernorm_after"),
    "an activation": (_set_activation, "flava.image_model.encoder.layer.1.output.dense"),
    "a head's epsilon": (_set_head_epsilon, "mmm_image_head.transform.LayerNorm"),
    "an attention scale": (_set_attention_scale, "flava.multimodal_model.encoder.layer.0.attention.attention.query"),
    "positions": (_shift_positions, "flava.text_model.embeddings.position_embeddings"),
    "a padding mask": (_ignore_the_mask, "flava.text_model.encoder.layer.0.attention.output.dense"),
    "a pooled token": (_pool_another_token, "itm_head.pooler.dense"),
}


@pytest.fixture(scope="module")
def claims_of(tiny, converted):
    """``claims_of("an activation")`` are those made of the model with that mutant in it; each is verified once."""

    @cache
    def verified(mutant: str) -> dict:
        with _edited(MUTANTS[mutant][0]):
            return _verify(tiny, converted)

    return verified


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutated_transformers_is_caught_and_the_first_module_to_diverge_is_named(mutant, claims_of):
    """Values are equal, the computation is not."""
    claims, culprit = claims_of(mutant), MUTANTS[mutant][1]
    assert claims["values"].verdict is Verdict.PROVEN
    assert claims["forward"].findings[0].key == culprit, "\n".join(map(str, claims["forward"].findings[:3]))


def test_a_difference_from_above_is_not_blamed_on_what_lies_below(claims_of):
    """An activation has no weights: the next module differs, and agrees when fed the original's input."""
    first = claims_of("an activation")["forward"].findings[0]
    assert "fed the original's input it agrees" in first.what


def test_a_module_that_computes_wrong_is_blamed_itself(claims_of):
    """Fed the original's input it still differs."""
    first = claims_of("a head's epsilon")["forward"].findings[0]
    assert "its own weights or computation" in first.what and "heads.cmd.mim_head.cls.predictions" in first.source


def test_a_model_that_does_not_run_is_not_proven(tiny, converted):
    """A part that could not run never counts as proven."""

    def broken(*_inputs, **_options):
        raise RuntimeError("no forward today")

    with _edited(lambda model: setattr(model, "forward", broken)):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    assert certificate.verdict is Verdict.NOT_PROVEN and certificate.exit_status == 1
    assert "could not run: RuntimeError: no forward today" in certificate.table()


def test_a_transformers_that_does_not_import_is_not_proven(tiny, converted):
    """Nor does it stop what is proven without it."""
    missing = mock.Mock(side_effect=ImportError("no FLAVA in this release"))
    with mock.patch.object(installed, "import_transformers", missing), mock.patch.object(verify, "import_transformers", missing):
        certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    claims = {claim.name: claim for claim in certificate.claims}
    assert claims["values"].verdict is Verdict.PROVEN and certificate.exit_status == 1
    assert claims["forward"].summary == "could not run: ImportError: no FLAVA in this release"


def _bend_gradients(model) -> None:
    layer = model.flava.multimodal_model.encoder.layer[0].output.dense
    layer.register_full_backward_hook(lambda _module, inputs, _outputs: (inputs[0] * 1.01,))


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Gradients of a large model are compared in float32, on fewer inputs."""
    if request.param == "large":
        monkeypatch.setattr(bounds, "FLOAT64_GRADIENTS_MAX", 0)


@pytest.mark.usefixtures("size")
def test_only_the_gradients_differ_where_only_they_are_wrong(tiny, converted):
    """Those of the layers below it, each by as much."""
    with _edited(_bend_gradients):
        claims = _verify(tiny, converted)
    assert {name for name, claim in claims.items() if claim.verdict is not Verdict.PROVEN} == {"gradients"}
    wrong = [measured for measured in claims["gradients"].measured if not measured.error <= measured.tolerance]
    assert all(name in str([m.what for m in wrong]) for name in ("multimodal_model.encoder.layer.0.attention", "text_model", "image_model"))
    assert max(measured.error for measured in wrong) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("size", ["large"], indirect=True)
def test_a_clean_folder_is_proven_whatever_its_size(tiny, converted, size):
    """Every claim; of a small one, tests/proof/test_power.py shows it."""
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    assert {claim.verdict for claim in certificate.claims} == {Verdict.PROVEN}, certificate.table()
