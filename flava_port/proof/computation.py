"""Runs both models on the same inputs and measures how far outputs and gradients lie apart.

One model is in memory at a time. `judge` says what the numbers mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..files.dtypes import FLOAT32, promoted
from ..files.torch_tensors import MemoryTensor, dtype_of
from ..progress import Progress
from ..rules.layouts import ORIGINAL_SEMANTICS
from ..target.installed import load_model, quiet
from ..target.keys import TIED
from .bounds import Expected, expect
from .certificate import Finding, Measured
from .forward import in_float64, outputs, outputs_and_gradients, relative_error, run_codebooks, run_converted, run_original
from .localise import localise
from .memory import freed_memory_kept, return_freed_memory
from .on_device import PRECISIONS, compare_on
from .results import Comparison, Deviation, Gradient, Loaded, Results, usual_size
from .scenarios import Scenario
from .sides import Sides, converted_key, give_seeded_weights
from .values import compare_values
from .weights import WeightClaims


class Computation:
    """The evidence of the claims about the computation. Both models run once, when the first claim asks for results."""

    def __init__(self, weights: WeightClaims, progress: Progress, device: torch.device | None = None) -> None:
        self.weights, self.progress, self.device = weights, progress, device
        self.sides = Sides(*weights.state_dicts(), weights.given.folder, weights.expected_config(), weights.given.made_by)
        self._ran: tuple[Results, Expected] | Exception | None = None

    @property
    def has_codebook(self) -> bool:
        return self.sides.codebook_state is not None

    @property
    def precisions(self) -> dict[str, torch.dtype]:
        """The dtypes to compare in on the device, if one was asked for, by name: ``cuda, float32``."""
        return {f"{self.device.type}, {dtype_of(dtype)}": dtype for dtype in PRECISIONS} if self.device is not None else {}

    def loaded(self) -> Loaded:
        """What `from_pretrained` ends up with, against the original's values."""
        originals = self.weights.originals()
        model, release = load_model(self.sides.folder)
        loaded = {key: MemoryTensor(value) for key, value in model.state_dict().items() if key in originals}
        findings, _ = compare_values(loaded, {key: originals[key] for key in loaded})
        findings += [Finding(key, self.weights.name_of(key), "not loaded at all") for key in originals if key not in loaded]
        for key, tensor in loaded.items():
            name, original = originals[key]
            if tensor.dtype not in (FLOAT32, promoted((tensor.dtype, original.dtype))):  # a wider one holds every value
                findings.append(Finding(key, name, f"loaded as {tensor.dtype}"))
        return Loaded(findings, release)

    def results(self) -> Results:
        """What both models computed. Whatever stopped them is raised again on every call."""
        return self._run()[0]

    def on_device(self, dtype: torch.dtype) -> list[Measured]:
        """Every output's error in ``dtype`` on the device that was asked for."""
        _, expected = self._run()
        assert self.device is not None, "no device was asked for"
        with quiet():
            return compare_on(self.device, dtype, self.sides, expected)

    def _run(self) -> tuple[Results, Expected]:
        if self._ran is None:
            with self.progress("run", None):
                try:
                    self._ran = run_both(self.sides)
                except Exception as error:
                    self._ran = error
        if isinstance(self._ran, Exception):
            raise self._ran
        return self._ran


@quiet()
@freed_memory_kept()
def run_both(sides: Sides) -> tuple[Results, Expected]:
    """Runs one model after the other; both are in memory only where they differ or the checkpoint's own weights hide something."""
    expected, gradients = expect(sides.original())
    return_freed_memory()
    theirs = sides.converted()
    own = _compare(expected, gradients, theirs)
    codebook = {}
    if (our_codebook := sides.codebook()) is not None:
        codebook = {name: relative_error(*pair) for name, pair in run_codebooks(our_codebook.double(), theirs).items()}
    diverged = _first_to_diverge(expected, own.errors)
    where = localise(sides, theirs, diverged, expected.bounds.tolerance) if diverged else []
    deviations = list(_deviations(sides, expected)) if sides.made_by is not ORIGINAL_SEMANTICS else []
    seeded = None
    if own.unseen or not own.bounds.shows_the_weakest:
        # Where a softmax or a tanh saturates, no output shows what comes before it. Other weights show how it is wired.
        ours, theirs = sides.original(), theirs.float()
        give_seeded_weights(ours, theirs)
        seeded = _compare(*expect(ours), theirs)
    return Results(own, seeded, codebook, where, deviations), expected


def _first_to_diverge(expected: Expected, errors: Mapping[str, float]) -> Scenario | None:
    """The first scenario in which an output differs."""
    wrong = [name for name, error in errors.items() if not error <= expected.bounds.tolerance]
    return next((case for case in expected.cases if any(name.startswith(case.name) for name in wrong)), None)


def _deviations(sides: Sides, expected: Expected) -> Iterator[Deviation]:
    """Every output of the source's own code, in float64, against what its config can say to transformers."""
    found_in_each = outputs(run_original, sides.original(sides.made_by).double(), expected.cases)
    for case, wanted, found in zip(expected.cases, expected.outputs, found_in_each):
        found.pop("total loss", None)  # each loss is held to its bound by itself
        for name, value in found.items():
            yield Deviation(f"{case.name}: {name}", float((value - wanted[name]).abs().max()), relative_error(wanted[name], value))


def _compare(expected: Expected, gradients: dict[str, Tensor], theirs: nn.Module) -> Comparison:
    """Compares the float32 converted model with what is expected of it. It ends in float64, and ``gradients`` empty."""
    theirs = theirs.to(expected.gradient_dtype)
    actual, compared = _compare_gradients(expected, gradients, theirs)
    if expected.gradient_dtype is torch.float32:
        actual = outputs(run_converted, in_float64(theirs), expected.cases)
    errors = {}
    for case, wanted, found in zip(expected.cases, expected.outputs, actual):
        for name, value in wanted.items():
            errors[f"{case.name}: {name}"] = relative_error(found[name], value) if name in found else float("inf")
    return Comparison(expected.bounds, errors, compared)


def _compare_gradients(
    expected: Expected, gradients: dict[str, Tensor], theirs: nn.Module
) -> tuple[list[dict[str, Tensor]], dict[str, Gradient]]:
    """The converted model's outputs, and its gradients compared with the original's ``gradients``, whose memory they take over.

    What rounding allows is relative to a gradient's largest value, or to the usual gradient's where it is
    zero but for rounding.
    """
    bounds = expected.bounds
    parameters = {_tied(name): (name, parameter.shape) for name, parameter in theirs.named_parameters()}
    found, minus_ours = {}, {}
    for name in list(gradients):
        gradient, key = gradients.pop(name), _tied(converted_key(name))
        size = float(gradient.abs().max())
        allowed = max(bounds.gradient_tolerance * size, bounds.gradient_floors.get(name, 0.0))
        found[key] = Gradient(size, float("inf"), allowed, why_no_output_shows(key, gradient))
        if key in parameters and parameters[key][1] == gradient.shape:
            minus_ours[parameters[key][0]] = gradient.neg_()
    actual, left = outputs_and_gradients(run_converted, theirs, expected.gradient_cases, minus_ours)
    differences = {_tied(name): float(left[name].abs().max()) for name in minus_ours}
    usual = usual_size(found)
    for key, compared in found.items():
        least = (bounds.gradient_tolerance if compared.excuse else bounds.gradient_rounding) * usual
        found[key] = replace(compared, difference=differences.get(key, compared.difference), allowed=max(compared.allowed, least))
    return actual, found


def _tied(name: str) -> str:
    """The decoder's key for a head's bias, whichever of its two keys is given; any other key as it is."""
    return dict(TIED).get(name, name)


def why_no_output_shows(name: str, parameter: Tensor) -> str:
    """Why a parameter cannot influence any output, so that only a comparison of values sees it; empty where it can."""
    if name.endswith("attention.attention.key.bias"):
        return "attention's key.bias adds the same to every score, which softmax cancels"
    if name.startswith(("flava.image_projection.", "flava.text_projection.")) and len(parameter) == 1:
        return "an embedding of a single number is normalised to its sign"
    return ""
