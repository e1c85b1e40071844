"""A Hugging Face FLAVA folder or a torchmultimodal checkpoint, back to the original's layout or on to torchmultimodal's."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from .conversion.account import counts_up, how_they_differ, stop_on
from .conversion.checkpoints import Written, codebook_layout, original_layout, torchmultimodal_layout, write_checkpoints
from .conversion.plan import prepare
from .conversion.record import described
from .conversion.sources import read_model_folder
from .errors import InvalidInput
from .files.dtypes import FLOATS
from .files.staging import check_target
from .files.tensors import StoredTensor, TensorSource, UnsupportedTensor
from .progress import Progress, silent
from .target.config import read_config
from .target.installed import shapes_for
from .target.keys import POSITION_IDS, TIED
from .target.parts import CODEBOOK_PART, MODEL, WHOLE, Part


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

    Raises:
        InvalidInput: the model cannot be read or holds no FLAVA, or a file to be written exists.
        NotFaithful: a weight is missing, misshapen or left over, or a tied bias has two values.
    """
    source = Path(converted_path)
    layout = layout or ("torchmultimodal" if source.is_file() else "hf")
    if to == layout:
        raise InvalidInput(f"{source}: is in torchmultimodal's layout already; --to original leads back to the original's")
    targets = [check_target(Path(p), force=force, sources=(source,)) for p in (checkpoint_path, codebook_path) if p is not None]
    if len(set(targets)) != len(targets):
        raise InvalidInput(f"{targets[0]}: given for the checkpoint and for the codebook; name two files")
    if to == "torchmultimodal" and codebook_path is not None:
        raise InvalidInput("a torchmultimodal checkpoint holds its codebook; leave out --codebook_path")
    tensors, lines = _read_folder(source) if layout == "hf" else _read_torchmultimodal(source, progress)
    if to == "torchmultimodal":
        contents = [torchmultimodal_layout(tensors)]
    else:
        _check_codebook(source, tensors, codebook_path)
        contents = [original_layout(tensors)]
        lines.append(
            ("note", f"an original checkpoint has no config; convert it with --config_path {source}") if layout == "hf" else _ITS_HEADS
        )
    if codebook_path is not None:
        contents.append(codebook_layout(tensors))
    written = write_checkpoints(targets, contents, progress)
    written.described = lines
    return written


_ITS_HEADS = ("note", "the original's heads have epsilon 1e-12, torchmultimodal's 1e-05: their logits differ in the last digits")


def _read_folder(folder: Path) -> tuple[dict[str, StoredTensor], list[tuple[str, str]]]:
    config = read_config(folder)
    tensors = read_model_folder(folder)
    part = WHOLE
    if not any(key.startswith(MODEL.prefix) for key in tensors):
        part, tensors = MODEL, {MODEL.prefix + key: tensor for key, tensor in tensors.items()}
    return complete(tensors, config, part), [("read", f"{folder}, of {part.model_class}")]


def _read_torchmultimodal(path: Path, progress: Progress) -> tuple[dict[str, TensorSource], list[tuple[str, str]]]:
    with ExitStack() as downloads:
        prepared = prepare(path, None, None, layout="torchmultimodal", stack=downloads, progress=progress)
        tensors = {key: placed.tensor for key, placed in prepared.placement.filled.items()}
    return tensors, described(prepared.sources, prepared.placement)


def _check_codebook(source: Path, tensors: Mapping[str, TensorSource], codebook_path: str | Path | None) -> None:
    """The original has its codebook in a file of its own, and no layout for encoders alone.

    Raises:
        InvalidInput: nothing was said of where it goes, or there is none.
    """
    if not any(key.startswith("itm_head.") for key in tensors):
        raise InvalidInput(f"{source}: holds the encoders alone, for which the original has no layout; --to torchmultimodal has")
    has_one = any(map(CODEBOOK_PART.holds, tensors))
    if has_one != (codebook_path is not None):
        has = "has a codebook; pass --codebook_path to say where it goes" if has_one else "has no codebook; leave out --codebook_path"
        raise InvalidInput(f"{source}: {has}")


def complete(tensors: Mapping[str, StoredTensor | UnsupportedTensor], config: Mapping, part: Part = WHOLE) -> dict[str, StoredTensor]:
    """Every key of the model in its order, a tied bias under both of its keys.

    Raises:
        NotFaithful: naming what is missing, misshapen, left over, or one bias with two values.
    """
    expected = shapes_for(config, part)
    found = {key: tensor for key, tensor in tensors.items() if key != POSITION_IDS}
    problems = []
    if POSITION_IDS in tensors and not counts_up(tensors[POSITION_IDS], config["text_config"]["max_position_embeddings"]):
        problems.append(f"{POSITION_IDS} does not hold 0, 1, 2, ...: the model would compute others")
    for one, other in TIED:
        if one in found and other in found and (how := how_they_differ(found[one], found[other])):
            problems.append(f"{one} and {other} should be one tensor and differ, {how}")
        for key, twin in ((one, other), (other, one)):
            if twin in found:
                found.setdefault(key, found[twin])
    problems += [f"missing {key} {list(shape)}" for key, shape in expected.items() if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in expected]
    for key, shape in expected.items():
        tensor = found.get(key)
        if isinstance(tensor, UnsupportedTensor):
            problems.append(f"{key} is a {tensor.kind} tensor")
        elif tensor is not None and tensor.shape != shape:
            problems.append(f"wrong shape: {key} is {list(tensor.shape)}, the config says {list(shape)}")
        elif tensor is not None and tensor.dtype not in FLOATS:
            problems.append(f"wrong dtype: {key} is {tensor.dtype}; weights are float16, bfloat16, float32 or float64")
    stop_on(problems)
    return {key: found[key] for key in expected}
