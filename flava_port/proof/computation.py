"""The evidence of the claims about the computation: what is loaded, and what both models compute."""

import torch

from ..files.dtypes import FLOAT32, promoted
from ..files.tensors import TensorSource, cast
from ..files.torch_tensors import dtype_of
from ..progress import Progress
from ..target.installed import quiet, version
from .certificate import Finding, Measured
from .on_device import PRECISIONS, compare_on
from .results import Loaded, Results
from .sides import Sides
from .values import compare_values
from .weights import WeightClaims
from .whole import Expected, run_both


class Computation:
    """The evidence of the claims about the computation. Both models run once, when the first claim asks for results."""

    def __init__(self, weights: WeightClaims, progress: Progress, device: torch.device | None = None) -> None:
        self.weights, self.progress, self.device = weights, progress, device
        self.sides = Sides(*weights.state_dicts(), weights.given.folder, weights.expected_config(), weights.given.made_by, weights.twin)
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
        originals, loaded = self.weights.originals(), self.sides.loaded
        tensors: dict[str, TensorSource] = {}  # those that the claim about values has not compared as they are loaded
        findings = []
        for key, (name, original) in originals.items():
            origin = loaded.keys.get(key)
            if origin is None:
                findings.append(Finding(key, name, "not loaded at all"))
                continue
            dtype, tensor = dtype_of(getattr(torch, loaded.dtypes[key])), self.sides.tensor_of(origin)
            if dtype != tensor.dtype or not self.weights.is_proven(key, tensor):
                tensors[key] = cast(tensor, dtype)
            if dtype not in (FLOAT32, promoted((dtype, original.dtype))):  # a wider one holds every value
                findings.append(Finding(key, name, f"loaded as {dtype}"))
        differing, _ = compare_values(tensors, {key: originals[key] for key in tensors})
        return Loaded(differing + findings, version("transformers"))

    def results(self) -> Results:
        """What both models computed. Whatever stopped them is raised again on every call."""
        return self._run()[0]

    def on_device(self, dtype: torch.dtype) -> list[Measured]:
        """Every output's error in ``dtype`` on the device that was asked for."""
        results, expected = self._run()
        assert self.device is not None, "no device was asked for"
        with quiet():
            return compare_on(self.device, dtype, self.sides, expected, results.own.bounds.whole_tolerance)

    def _run(self) -> tuple[Results, Expected]:
        if self._ran is None:
            try:
                self._ran = run_both(self.sides, self.progress)
            except Exception as error:
                self._ran = error
        if isinstance(self._ran, Exception):
            raise self._ran
        return self._ran
