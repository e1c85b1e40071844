"""Original FLAVA checkpoint to a Hugging Face folder, every value proven to be the one it was.

`convert_flava_checkpoint`, `upgrade_state_dict` and `count_parameters` have the names and
signatures of the converter that transformers 4.20.0 to 4.47.1 shipped as
``convert_flava_original_pytorch_to_hf``.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from . import config as configs
from .download import is_url
from .errors import InvalidInput
from .layout import expected_layout
from .placing import Placed, Source, account, rename_all, shapes_of, stop_on
from .port import DTYPES, Conversion, open_source, write_model
from .progress import Progress, silent
from .recognise import Kind, recognise
from .rules import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from .staging import check_target

__all__ = ["convert_flava_checkpoint", "count_parameters", "upgrade_state_dict"]


def convert_flava_checkpoint(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    pytorch_dump_folder_path: str | Path,
    config_path: str | Path | None = None,
    *,
    dtype: str = "float32",
    max_shard_size: str | int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Conversion:
    """Converts an original checkpoint and its codebook into a folder for `FlavaForPreTraining.from_pretrained`.

    Args:
        checkpoint_path: the original checkpoint; a local file or an http(s) URL.
        codebook_path: OpenAI's DALL-E encoder, pickled or as a state dict; None for a model without a codebook.
        pytorch_dump_folder_path: the folder to make. It appears whole or not at all.
        config_path: a config.json or its folder; without it, sizes come from the checkpoint's shapes.
        dtype: ``float32``, or ``keep`` for the checkpoint's own.
        max_shard_size: bytes, or ``5GB``; above it the weights are split. Default: the installed transformers'.
        force: replace an existing folder.
        progress: shows bars; see `flava_port.progress`.

    Raises:
        InvalidInput: an input cannot be read, is something else, or the folder exists.
        NotFaithful: the checkpoint was read, but no conversion of it would be the same model.
    """
    target = check_target(Path(pytorch_dump_folder_path), force=force, sources=_local(checkpoint_path, codebook_path, config_path))
    given_config = configs.read_config(Path(config_path)) if config_path is not None else None
    with ExitStack() as downloads:
        sources = [Source("checkpoint", open_source(checkpoint_path, Kind.ORIGINAL, downloads, progress), FLAVA)]
        if codebook_path is not None:
            codebook = open_source(codebook_path, Kind.DALLE, downloads, progress)
            sources.append(Source("codebook", codebook, CODEBOOK, CODEBOOK_PREFIX))
        renamed, dropped = rename_all(sources)
        config, assumed = settle_config(given_config, renamed, with_codebook=codebook_path is not None)
        placement = account(renamed, dropped, expected_layout(config).shapes)
        return write_model(
            target,
            sources,
            placement,
            lambda loading_dtype: {
                "config.json": configs.config_json(config, loading_dtype),
                "preprocessor_config.json": configs.preprocessor_json(config),
            },
            dtype=dtype,
            max_shard_size=max_shard_size,
            assumed=assumed,
            progress=progress,
        )


def _local(*paths: str | Path | None) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths if path is not None and not is_url(path))


def settle_config(given: dict | None, renamed: Mapping[str, Placed], *, with_codebook: bool) -> tuple[dict, list[str]]:
    """The config to write, and what it assumes; a given one must agree with the shapes.

    Raises:
        NotFaithful: the given config contradicts a shape.
    """
    shapes = shapes_of(renamed)
    if given is None:
        config, assumed = configs.config_from_shapes(shapes)
        return {**config, "init_codebook": with_codebook}, assumed
    stop_on(
        f"the config has {name} = {value}, but {renamed[found.key]} shows {found.value}"
        for name, value, found in configs.contradictions(given, shapes)
    )
    return {**given, "init_codebook": with_codebook, "tie_word_embeddings": True}, []


# ------------------------------------------------------------- state dicts in memory, as upstream


_CONVERTED = (Kind.HUGGING_FACE, Kind.HUGGING_FACE_CODEBOOK)


def upgrade_state_dict(
    state_dict: Mapping[str, torch.Tensor], codebook_state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """An original state dict under Hugging Face's keys, in float32, with a converted codebook's added.

    Raises:
        InvalidInput: a key is already converted.
        NotFaithful: two keys meet in one, or a key that is dropped differs from the copy that is kept.
    """
    if converted := next((key for key in state_dict if recognise([key]) in _CONVERTED), None):
        raise InvalidInput(f"{converted} is already converted; the rules are for {Kind.ORIGINAL.value}")
    upgraded: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    problems = []
    for key, value in state_dict.items():
        trace = FLAVA.trace(key)
        if trace.dropped:
            problems += _lost_by_dropping(key, trace.dropped.kept_key(key), state_dict)
        elif trace.target in origin:
            problems.append(f"{key} and {origin[trace.target]} both become {trace.target}")
        else:
            origin[trace.target] = key
            upgraded[trace.target] = value.float()
    stop_on(problems)
    return upgraded | {CODEBOOK_PREFIX + key: value for key, value in codebook_state_dict.items()}


def _lost_by_dropping(key: str, kept_key: str, state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    kept = state_dict.get(kept_key)
    if kept is None:
        return [f"{key} would be dropped as a second copy, but there is no {kept_key}"]
    if kept is not state_dict[key] and not torch.equal(kept, state_dict[key]):
        return [f"two copies that should be one differ: {key} and {kept_key}"]
    return []


def count_parameters(state_dict: Mapping[str, torch.Tensor]) -> torch.Tensor | int:
    """The sum of all values, second copies of embeddings left out. It proves little; see `flava_port.output`."""
    return sum(value.float().sum() for key, value in state_dict.items() if "encoder.embeddings" not in key)
