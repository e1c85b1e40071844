"""Converts a FLAVA checkpoint of any layout into one for Meta's public implementation, torchmultimodal."""

from pathlib import Path
from typing import Any

from .conversion.checkpoints import Written, check_checkpoint, torchmultimodal_layout, write_checkpoints
from .conversion.folder import choose_dtypes
from .conversion.plan import Plan, given_config, plan_conversion
from .conversion.record import described
from .errors import InvalidInput
from .reading.options import Options
from .reading.sources import open_sources
from .target.parts import MODEL

CHOICES = ("layout", "part", "no_codebook", "container", "prefix", "drop", "dtype", "force", "progress")


def convert_to_torchmultimodal(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    target_path: str | Path,
    config_path: str | Path | None = None,
    **choices: Any,
) -> Written:
    """Converts a checkpoint into a file for `load_state_dict` of torchmultimodal's `FLAVAForPreTraining`, codebook included.

    With ``part="model"``, and of encoders alone, the file is for its `FLAVAModel`. ``choices`` are those of `CHOICES`, as in `convert_flava_checkpoint`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the file exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    if unknown := choices.keys() - set(CHOICES):
        raise TypeError(f"convert_to_torchmultimodal() got an unexpected keyword argument {min(unknown)!r}")
    options = Options(checkpoint_path, codebook_path, config_path, **choices)
    if options.part not in (None, MODEL.name):
        raise InvalidInput(f"--part {options.part}: torchmultimodal's checkpoints hold the whole model, or --part {MODEL.name}")
    target = check_checkpoint(Path(target_path), force=options.force, sources=options.local_paths())
    given = given_config(options)
    with open_sources(options) as sources:
        plan = plan_conversion(sources, given, options)
        weights, warnings = choose_dtypes(plan.placement, options.dtype)
        lines = [*described(plan), *(("warning", line) for line in warnings), *_loss_it_needs(plan)]
        return write_checkpoints({target: torchmultimodal_layout(weights)}, lines, options.progress)


def _loss_it_needs(plan: Plan) -> list[tuple[str, str]]:
    """A note on the loss in which a checkpoint that was not torchmultimodal's computes the same; encoders alone need none."""
    if plan.made_by.head_layer_norm_eps is not None or plan.part is MODEL:
        return []
    arguments = f"layer_norm_eps={plan.config['text_config']['layer_norm_eps']}, ignore_index={plan.config['ce_ignore_index']}"
    return [("note", f"it computes the same in FLAVAPretrainingLoss({arguments}); that class's own defaults are 1e-5 and -1")]
