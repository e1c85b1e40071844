"""`verify --device` compares forward passes on that device, in float32 and bfloat16; the original's own rounding there is the tolerance."""

import weakref
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._mode_utils import no_dispatch

from flava_port import verify
from flava_port.errors import InvalidInput
from flava_port.original.flava import Flava
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof import on_device
from flava_port.proof.certificate import Verdict
from flava_port.proof.forward import run_converted, run_original
from flava_port.proof.scenarios import Scenario, scenarios
from flava_port.proof.sides import Sides
from flava_port.proof.streamed import Weight
from flava_port.proof.whole import Expected
from flava_port.target.config import read_config
from flava_port.target.installed import load_model, quiet
from flava_port.verify import verify_flava_checkpoint
from tests.builders import TINY, TINY_CODEBOOK
from tests.proof.mutants import edited, set_activation

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; run on a machine with one")),
]


def _claims(tiny, converted, device) -> dict:
    certificate = verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device=device)
    return {claim.name: claim for claim in certificate.claims if claim.name.startswith(f"{device}, ")}


@pytest.mark.parametrize("device", DEVICES)
def test_a_clean_model_is_as_near_the_exact_result_as_the_original(tiny, converted, device):
    """This holds for every output in both precisions; bfloat16 shows by its larger rounding."""
    claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.PROVEN] * 2, claims
    single, half = (claims[f"{device}, {name}"].measured for name in ("float32", "bfloat16"))
    assert len(single) == len(half) > 80
    assert 1e-8 < single[0].tolerance < 1e-4 < half[0].tolerance < 0.5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("taken_for_large")
def test_a_clean_large_model_is_not_accused(tiny, converted, device):
    """The blocks that count as exact ran in float32 themselves, so that the original may be off by nothing at all."""
    claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.PROVEN] * 2, claims


@pytest.mark.parametrize("device", DEVICES)
def test_another_activation_is_caught_in_both_precisions(tiny, converted, device):
    """A large fault shows even in bfloat16."""
    with edited(set_activation):
        claims = _claims(tiny, converted, device)
    assert [claim.verdict for claim in claims.values()] == [Verdict.DIFFERS] * 2, claims


def test_a_device_that_is_not_there_is_refused(run_command, tiny, converted):
    """No file's digest is begun; the exit status is 2, the message torch's own first line."""
    files = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", converted
    ran = run_command("verify", *files, "--device", "nowhere")
    assert ran.status == 2 and ran.err.startswith("flava-port: --device nowhere: ") and ran.err.count("\n") == 1
    with mock.patch.object(verify, "file_sha256") as read, pytest.raises(InvalidInput, match="--device meta: "):
        verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, device="meta")
    read.assert_not_called()


# Of the names of devices, one that any build of torch takes, without the hardware.
GPU = "lazy"


class _Elsewhere:
    """A GPU that computes nothing but on which torch still insists that operands lie together: fake tensors, for which none is needed.

    Sizes that depend on values are symbols there.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def tensor(self, tensor: Tensor, device: str = GPU) -> Tensor:
        return FakeTensor(self.mode, tensor.to("meta"), torch.device(device))

    def model(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                setattr(module, name, nn.Parameter(self.tensor(parameter), requires_grad=False))
            for name, buffer in [*module.named_buffers(recurse=False)]:
                setattr(module, name, self.tensor(buffer))
        return model

    def scenario(self, case: Scenario, but: str = "") -> Scenario:
        """The scenario with all its inputs there except ``but``; without ITM labels, whose values decide what runs."""
        inputs = {name: value for name, value in case.inputs.items() if name != "itm_labels"}
        return Scenario(case.name, {name: self.tensor(value, "cpu" if name == but else GPU) for name, value in inputs.items()})


@pytest.fixture(scope="module", params=["original", "converted"])
def side(request, converted):
    """One side's model on that device, and what runs it."""
    elsewhere = _Elsewhere()
    if request.param == "original":
        return elsewhere, elsewhere.model(Flava(TINY).eval()), run_original
    return elsewhere, elsewhere.model(load_model(converted)[0]), run_converted


CASES = scenarios(Flava(TINY))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_that_runs_lies_on_one_device(side, case):
    """No tensor is made on the CPU while the model is elsewhere; no GPU is needed to see it."""
    elsewhere, model, run = side
    there = elsewhere.scenario(case)
    with elsewhere.mode, torch.no_grad(), quiet():
        found = run(model, there)
    assert len(found) > 8 and {str(value.device) for value in found.values()} == {GPU}


def test_an_input_that_is_left_behind_does_not_run(side):
    """The test above can fail."""
    elsewhere, model, run = side
    there = elsewhere.scenario(CASES[0], but="pixel_values")
    with elsewhere.mode, torch.no_grad(), quiet(), pytest.raises(Exception, match="found two different devices|on the same device"):
        run(model, there)


class _Streamed:
    """A proof on that device: what is sent there goes there; the outputs and the most bytes of weights are kept."""

    def __init__(self, patch: pytest.MonkeyPatch, left_behind: str = "") -> None:
        self.elsewhere, self.outputs, self.alive, self.most = _Elsewhere(), [], 0, 0
        load, to = Weight.load, Tensor.to

        def loaded(weight, dtype, device=None):
            assert device is not None, "it is loaded for the CPU"
            with no_dispatch():
                tensor = load(weight, dtype, None if weight.name == left_behind else device)
            self.alive += tensor.nbytes
            self.most = max(self.most, self.alive)
            weakref.finalize(tensor, self._let_go, tensor.nbytes)
            return tensor

        def sent(tensor, *where, **options):
            others = [part for part in where if part != torch.device(GPU)]
            moved = to(tensor, *others, **options) if others or options else tensor
            return self.elsewhere.tensor(moved) if len(others) < len(where) and not isinstance(tensor, FakeTensor) else moved

        patch.setattr(Weight, "load", loaded)
        patch.setattr(Tensor, "to", sent)
        for name in ("run_original", "run_converted"):
            patch.setattr(on_device, name, self._there(getattr(on_device, name)))
        patch.setattr(on_device, "relative_error", lambda actual, _exact: self.outputs.append(actual) or 0.0)

    def _there(self, run):
        def there(model, case):
            with self.elsewhere.mode:
                return run(model, case)

        return there

    def _let_go(self, nbytes: int) -> None:
        self.alive -= nbytes

    def run(self, converted) -> None:
        sides = Sides(seeded_state_dict(TINY), seeded_codebook(TINY_CODEBOOK), converted, read_config(converted))
        cases = [Scenario(case.name, {n: value for n, value in case.inputs.items() if n != "itm_labels"}) for case in CASES]
        with torch.no_grad():
            expected = Expected(cases, [run_original(Flava(TINY).eval(), case) for case in cases])
        with quiet():
            on_device.compare_on(torch.device(GPU), torch.float32, sides, expected, 0.0)
        self.largest = max(block.nbytes for block in sides.original().blocks.values())
        self.between = sum(4 * torch.Size(weight.shape).numel() for weight in sides.original().between)


def test_each_block_goes_to_the_device_when_it_runs_and_no_other_is_there(monkeypatch, converted):
    """Of one model after the other, with what the models make themselves; the outputs come back."""
    streamed = _Streamed(monkeypatch)
    streamed.run(converted)
    assert len(streamed.outputs) > 160
    assert streamed.largest <= streamed.most <= 1.1 * streamed.largest + streamed.between and not streamed.alive


@pytest.mark.parametrize("name", ["mlm_head.decoder.weight", "flava.image_model.embeddings.cls_token"])
def test_a_weight_that_is_left_behind_does_not_run(monkeypatch, converted, name):
    """The test above can fail: of a block, and of what stands between the blocks."""
    with pytest.raises(Exception, match="found two different devices|on the same device"):
        _Streamed(monkeypatch, left_behind=name).run(converted)
