"""Runs circumstances with the installed transformers, and keeps of each answer its form and a few projections."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..files.torch_tensors import load
from ..original.flava import Flava
from ..original.seeded import seeded_state_dict
from ..proof.forward import relative_error
from ..proof.localise import recording
from .circumstances import Circumstance
from .observation import Run
from .small_model import SMALL_MODEL, Variant, build_model
from .variants import circumstances

if TYPE_CHECKING:
    from transformers import FlavaForPreTraining

_PROJECTIONS = 4


def sketch(value: Tensor) -> Tensor:
    """A few seeded projections of a tensor's finite values [4], float64: equal for equal values, and hardly ever for others."""
    flat = value.detach().flatten().double().nan_to_num(0.0, 0.0, 0.0)
    return _projections(len(flat)) @ flat


@cache
def _projections(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(_PROJECTIONS, size, generator=generator, dtype=torch.float64) / max(1, size) ** 0.5


def form_of(value: Tensor) -> str:
    """A tensor's dtype and shape, how many of its values are not finite, and whether it has a gradient."""
    counts = {"nan": int(value.isnan().sum()), "infinite": int(value.isinf().sum())}
    odd = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{odd}{', with a gradient' if value.requires_grad else ''}"


def said(error: Exception) -> str:
    """The type of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


@cache
def _original() -> Flava:
    return Flava.from_state_dict(
        {key: load(tensor) for key, tensor in seeded_state_dict(SMALL_MODEL).items()},
        **{name: {"num_attention_heads": 2} for name in ("image", "text", "multimodal")},
    ).double().eval()  # fmt: skip


def observe_runs(cases: Iterable[Circumstance] | None = None) -> dict[str, Run]:
    """Each circumstance, all by default, run with the installed transformers, and with the original where that has such a use."""
    models: dict[Variant, FlavaForPreTraining | Exception] = {}

    def model_for(variant: Variant) -> "FlavaForPreTraining":
        if variant not in models:
            try:
                models[variant] = build_model(variant)
            except Exception as error:  # whatever a release raises is what is to be observed
                models[variant] = error
        if isinstance(model := models[variant], Exception):
            raise model
        return model

    found = {}
    for case in circumstances() if cases is None else cases:
        try:
            found[case.name] = _run(case, model_for(case.variant))
            if case.variant.dtype != "float64" or case.autocast:
                exact = replace(case, variant=replace(case.variant, dtype="float64"), autocast=False)
                found[case.name] = replace(found[case.name], noise=_noise(found[case.name], _run(exact, model_for(exact.variant))))
        except Exception as error:
            found[case.name] = Run({}, {}, (), said(error), float("inf") if case.judged else None, kind=case.kind)
    return found


def _run(case: Circumstance, model: "FlavaForPreTraining") -> Run:
    with recording(model) as calls:
        answers = case.run(model)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} if case.has_gradients else {}
    return Run(
        answers={name: sketch(value) for name, value in answers.items()},
        gradients={name: sketch(value) for name, value in gradients.items()},
        modules=tuple((call.name, sketch(call.output)) for call in calls),
        from_original=_distance(answers, case.run_original(_original())) if case.judged else None,
        forms={name: form_of(value) for name, value in answers.items()},
        kind=case.kind,
    )


def _noise(run: Run, exact: Run) -> float:
    """How far rounding takes the run from the same in float64: the greatest relative error of an answer or a gradient."""
    sides = ((run.answers, exact.answers, 0.0), (run.gradients, exact.gradients, usual(exact.gradients)))
    return max((relative_error(a[name], b[name], least) for a, b, least in sides for name in b if name in a), default=0.0)


def usual(gradients: Mapping[str, Tensor]) -> float:
    """The median of the gradients' largest values. Some gradients, such as attention's key.bias, are nothing but rounding."""
    sizes = sorted(float(value.abs().max()) for value in gradients.values())
    return sizes[len(sizes) // 2] if sizes else 0.0


def _distance(answers: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> float:
    """The greatest relative error of an answer; infinite where one is missing."""
    return max(relative_error(answers[name], value) if name in answers else float("inf") for name, value in originals.items())
