"""`verify --device`: the forward pass where it is used, in float32 and bfloat16, held to the original's own rounding there."""

from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from flava_port import convert_flava_checkpoint, verify
from flava_port.errors import InvalidInput
from flava_port.original.flava import Flava
from flava_port.proof.certificate import Verdict
from flava_port.proof.forward import run_converted, run_original
from flava_port.proof.scenarios import Scenario, scenarios
from flava_port.target.installed import load_model, quiet
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY
from tests.proof.test_bites import _edited, _set_activation

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run on a machine with one")),
]


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny checkpoint, converted once."""
    folder = tmp_path_factory.mktemp("converted") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return folder


def _claims(tiny, converted, device) -> dict:
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device=device)
    return {claim.name: claim for claim in certificate.claims if claim.name.startswith(f"{device}, ")}


@pytest.mark.parametrize("device", DEVICES)
def test_a_clean_model_is_as_near_the_exact_result_as_the_original(tiny, converted, device):
    """In both precisions, every output; and bfloat16 is told from float32 by what it rounds."""
    claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.PROVEN] * 2, claims
    single, half = (claims[f"{device}, {name}"].measured for name in ("float32", "bfloat16"))
    assert len(single) == len(half) > 80
    assert 1e-8 < single[0].tolerance < 1e-4 < half[0].tolerance < 0.5


@pytest.mark.parametrize("device", DEVICES)
def test_another_activation_is_caught_in_both_precisions(tiny, converted, device):
    """A gross fault shows in bfloat16 too."""
    with _edited(_set_activation):
        claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.DIFFERS] * 2, claims


def test_a_device_that_is_not_there_is_refused(run_command, tiny, converted):
    """Before anything is run; exit status 2, with torch's own first line."""
    files = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", converted
    ran = run_command("verify", *files, "--device", "nowhere")
    assert ran.status == 2 and ran.err.startswith("flava-port: --device nowhere: ") and ran.err.count("\n") == 1
    unread = mock.patch.object(verify, "file_sha256", side_effect=AssertionError("a file was read"))
    with unread, pytest.raises(InvalidInput, match="--device meta: "):
        verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device="meta")


class _Elsewhere:
    """A device without arithmetic, on which torch still insists that operands lie together: fake tensors on `meta`.

    Sizes that follow from values are symbols there.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv())

    def tensor(self, tensor: Tensor, device: str = "meta") -> Tensor:
        return FakeTensor(self.mode, tensor.to("meta"), torch.device(device))

    def model(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                setattr(module, name, nn.Parameter(self.tensor(parameter), requires_grad=False))
            for name, buffer in [*module.named_buffers(recurse=False)]:
                setattr(module, name, self.tensor(buffer))
        return model

    def scenario(self, case: Scenario, but: str = "") -> Scenario:
        """With all its inputs there but one; without the ITM's labels, whose values decide what runs."""
        inputs = {name: value for name, value in case.inputs.items() if name != "itm_labels"}
        return Scenario(case.name, {name: self.tensor(value, "cpu" if name == but else "meta") for name, value in inputs.items()})


@pytest.fixture(scope="module", params=["original", "converted"])
def side(request, converted):
    """One side's model, elsewhere, and what runs it."""
    elsewhere = _Elsewhere()
    if request.param == "original":
        return elsewhere, elsewhere.model(Flava(TINY).eval()), run_original
    return elsewhere, elsewhere.model(load_model(converted)[0]), run_converted


CASES = scenarios(Flava(TINY))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_that_runs_lies_on_one_device(side, case):
    """Without a GPU too: nothing is made on the CPU beside a model that is elsewhere."""
    elsewhere, model, run = side
    there = elsewhere.scenario(case)
    with elsewhere.mode, torch.no_grad(), quiet():
        found = run(model, there)
    assert len(found) > 8 and {value.device.type for value in found.values()} == {"meta"}


def test_an_input_that_is_left_behind_does_not_run(side):
    """So the test above can fail."""
    elsewhere, model, run = side
    there = elsewhere.scenario(CASES[0], but="pixel_values")
    with elsewhere.mode, torch.no_grad(), quiet(), pytest.raises(Exception, match="found two different devices|on the same device"):
        run(model, there)
