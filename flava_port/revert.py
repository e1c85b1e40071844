"""Writes a Hugging Face FLAVA folder or a torchmultimodal checkpoint back in the original's layout, or on in torchmultimodal's."""

from collections.abc import Collection
from pathlib import Path

from .conversion.account import account, rename_all
from .conversion.checkpoints import Written, check_checkpoint, codebook_layout, original_layout, torchmultimodal_layout, write_checkpoints
from .conversion.plan import plan_conversion
from .conversion.record import described
from .errors import InvalidInput
from .files.tensors import TensorSource
from .progress import Progress, silent
from .reading.options import Options
from .reading.sources import open_folder, open_sources
from .reading.tuned import settle_heads
from .target.config import read_part_config
from .target.parts import CODEBOOK_PART, MODEL


def revert_flava_checkpoint(
    converted_path: str | Path,
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    *,
    layout: str | None = None,
    to: str = "original",
    force: bool = False,
    progress: Progress = silent,
) -> Written:
    """Writes the checkpoint that a model was, or could have been, converted from.

    Args:
        converted_path: a folder of transformers', or a torchmultimodal checkpoint.
        checkpoint_path: the file to write.
        codebook_path: the codebook's state dict to write; torchmultimodal's layout has it in the checkpoint.
        layout: ``hf`` or ``torchmultimodal``; None: a folder is the first, a file the second.
        to: ``original`` or ``torchmultimodal``.
        force: replace files that exist.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: the model cannot be read or holds no FLAVA, or a file to be written exists.
        NotFaithful: a weight is missing, misshapen or left over, or a tied bias has two values.
    """
    source = Path(converted_path)
    layout = layout or ("torchmultimodal" if source.is_file() else "hf")
    if to == layout:
        raise InvalidInput(f"{source}: is in torchmultimodal's layout already; --to original leads back to the original's")
    targets = [
        check_checkpoint(Path(path), force=force, sources=(source,)) for path in (checkpoint_path, codebook_path) if path is not None
    ]
    if len(set(targets)) != len(targets):
        raise InvalidInput(f"{targets[0]}: given for the checkpoint and for the codebook; name two files")
    if to == "torchmultimodal" and codebook_path is not None:
        raise InvalidInput("a torchmultimodal checkpoint holds its codebook; leave out --codebook_path")
    tensors, lines = _read_folder(source) if layout == "hf" else _read_torchmultimodal(source, progress)
    if to == "torchmultimodal":
        return write_checkpoints({targets[0]: torchmultimodal_layout(tensors)}, lines, progress)
    if all(map(CODEBOOK_PART.holds, tensors)) and codebook_path is None:  # a codebook alone is a checkpoint of its own
        return write_checkpoints({targets[0]: codebook_layout(tensors)}, lines, progress)
    _check_that_the_original_can_hold(tensors, source, codebook_path is not None)
    contents = dict(zip(targets, (original_layout(tensors), codebook_layout(tensors))))
    return write_checkpoints(contents, [*lines, ("note", _lost(source, layout))], progress)


def _lost(source: Path, layout: str) -> str:
    """What an original checkpoint cannot hold of the model."""
    if layout != "hf":
        return "the original's heads have epsilon 1e-12, torchmultimodal's 1e-05: their logits differ in the last digits"
    return f"an original checkpoint has no config; convert it with --config_path {source}"


def _read_folder(folder: Path) -> tuple[dict[str, TensorSource], list[tuple[str, str]]]:
    """Every tensor of FLAVA's in a folder under `FlavaForPreTraining`'s keys, and what was read."""
    whole = open_folder(folder)
    tuned = settle_heads(whole, read_part_config(folder, whole.part))
    placement = account(rename_all([tuned.source]), tuned.expected, whole.part)
    notes = [("note", line) for line in tuned.lines] + [("note", "such heads are left out")] * bool(tuned.added)
    return placement.tensors(), [("read", f"{folder}, of {whole.part.model_class}"), *notes]


def _read_torchmultimodal(path: Path, progress: Progress) -> tuple[dict[str, TensorSource], list[tuple[str, str]]]:
    """The same of a torchmultimodal checkpoint."""
    options = Options(path, layout="torchmultimodal", progress=progress)
    with open_sources(options) as sources:
        plan = plan_conversion(sources, None, options)
        return plan.placement.tensors(), described(plan)


def _check_that_the_original_can_hold(keys: Collection[str], source: Path, has_place_for_codebook: bool) -> None:
    """The original has its codebook in a file of its own, and no layout for encoders alone.

    Raises:
        InvalidInput: there are encoders alone, a codebook alone with two places, a codebook without a place, or a place without one.
    """
    if all(map(CODEBOOK_PART.holds, keys)):
        raise InvalidInput(f"{source}: holds a codebook alone, which --checkpoint_path is for; leave out --codebook_path")
    if all(map(MODEL.holds, keys)):
        raise InvalidInput(f"{source}: holds the encoders alone, for which the original has no layout; --to torchmultimodal has")
    has_codebook = any(map(CODEBOOK_PART.holds, keys))
    if has_codebook and not has_place_for_codebook:
        raise InvalidInput(f"{source}: has a codebook; pass --codebook_path to say where it goes")
    if has_place_for_codebook and not has_codebook:
        raise InvalidInput(f"{source}: has no codebook; leave out --codebook_path")
