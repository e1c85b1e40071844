"""The proof that a converted folder is the original model: keys, values, config, ties, then the computation.

Each claim ends as proven, as differing with the culprits named in both layouts, or as not proven with the reason.
A claim that could not be checked never counts as proven.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conversion.options import Options
from .conversion.sources import Source, has_codebook, open_sources, read_model_folder
from .errors import InvalidInput
from .files.checkpoint import file_sha256
from .files.tensors import TensorInFile
from .progress import Progress, in_background, silent
from .proof.certificate import Certificate, Claim, Verdict
from .proof.claims import ABOUT_THE_FILES, ABOUT_THE_PROCESSOR, Check, about_the_computation
from .proof.weights import Given, WeightClaims, read_record
from .rules.layouts import semantics_of
from .target.config import declared_class, read_config
from .target.installed import import_transformers, quiet, recorded_versions
from .target.known import doubts_about_the_installed
from .target.parts import CODEBOOK_PART, PARTS, WHOLE, WITHOUT_CODEBOOK

if TYPE_CHECKING:
    from .proof.computation import Computation
    from .proof.processing import Processing


@dataclass(frozen=True)
class ProofOptions:
    """The keywords of `verify_flava_checkpoint`, and their defaults."""

    weights_only: bool = False  # leave out the claims about the computation
    device: str | None = None  # where to run the forward pass besides, such as cuda, in float32 and in bfloat16
    no_codebook: bool = False  # the folder was converted without the codebook that the checkpoint holds
    head_layer_norm_eps: float | None = None  # of the source's masked-prediction heads, where it is not their code's default
    tokenizer: str | Path | None = None  # the original's, where it is not bert-base-uncased's; see `files.vocabulary.read_vocabulary`
    container: str | None = None  # where the model stands in its file, and what is left out, as for the conversion
    prefix: str | None = None
    drop: Sequence[str] = ()
    progress: Progress = silent
    settled: Callable[[Claim], object] = lambda _: None  # is given each claim when it is judged


def verify_flava_checkpoint(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    converted_path: str | Path,
    config_path: str | Path | None = None,
    **options: Any,
) -> Certificate:
    """Proves, or refutes, that the folder is the same model as the checkpoint and its codebook.

    The checkpoint is an original one, or torchmultimodal's, which holds its codebook. ``config_path`` says
    what no shape tells of the original (heads, activation, epsilon). Without it, the folder's own record
    of its conversion says so; without a record, FLAVA's defaults hold. For ``options`` see `ProofOptions`.

    Raises:
        InvalidInput: one side cannot be read, the folder is for a part of FLAVA, or there is no such device.
        NotFaithful: the original's shapes fit no FLAVA, or one key of the folder has two values.
    """
    asked = ProofOptions(**options)
    folder = Path(converted_path)
    if (model_class := declared_class(folder)) in {part.model_class for part in PARTS.values()}:
        raise InvalidInput(f"{folder}: is for {model_class}; verify proves whole models, so convert one without --part and verify that")
    opening = Options(checkpoint_path, codebook_path, container=asked.container, prefix=asked.prefix, drop=asked.drop)
    with open_sources(replace(opening, progress=asked.progress)) as sources:
        converted, config = _read_folder(folder, sources, asked), read_config(folder)
        runner = None if asked.weights_only else in_background(_computation, asked)
        if runner is not None and asked.device is not None:
            runner.result()  # stops here if there is no such device
        hashing = {path.name: in_background(file_sha256, path) for source in sources for path in source.files}
        digests = {name: digest.result() for name, digest in hashing.items()}
        certificate = Certificate([], recorded_versions(), digests, "the weights" if asked.weights_only else "everything")

        record = read_record(folder, set(digests.values()))
        declared = read_config(Path(config_path)) if config_path is not None else record.config if record else None
        part = WITHOUT_CODEBOOK if asked.no_codebook else WHOLE
        recorded = record.keys if record else frozenset()
        made_by = semantics_of(sources[0].layout, asked.head_layer_norm_eps)
        weights = WeightClaims(Given(sources, part, made_by, folder, converted, config, declared, recorded))
        _settle(ABOUT_THE_FILES, weights, certificate, asked)
        certificate.digests |= weights.digests
        certificate.keys, certificate.lost_in = weights.mapped, weights.lost_in
        if runner is not None:
            computation = runner.result()(weights)
            _settle(about_the_computation(computation), computation, certificate, asked)
            _settle(ABOUT_THE_PROCESSOR, _processing(computation, asked), certificate, asked)
    return replace(certificate, doubts=_doubts(certificate))


def _doubts(certificate: Certificate) -> str:
    """What to say of the installed transformers if the folder is not proven: its files may be right, and transformers not."""
    if certificate.verdict is Verdict.PROVEN:
        return ""
    about_the_files = certificate.claims[: len(ABOUT_THE_FILES)]
    return doubts_about_the_installed(files_are_right=all(claim.verdict is Verdict.PROVEN for claim in about_the_files))


def _settle(checks: Iterable[Check[Any]], evidence: Any, certificate: Certificate, asked: ProofOptions) -> None:
    """Adds the claims, and shows each when it is judged."""
    for check in checks:
        certificate.claims.append(check.settle(evidence))
        asked.settled(certificate.claims[-1])


def _read_folder(folder: Path, sources: Sequence[Source], asked: ProofOptions) -> dict[str, TensorInFile]:
    """The folder's weights, unread.

    Raises:
        InvalidInput: it cannot be read, or holds a codebook whose file was not given.
        NotFaithful: one key has two values.
    """
    converted = read_model_folder(folder)
    if any(map(CODEBOOK_PART.holds, converted)) and not (has_codebook(sources) or asked.no_codebook):
        what = "holds an image codebook; pass the file that it was made of, too"
        raise InvalidInput(f"{folder}: {what}: --codebook_path (in pytest --flava-codebook)")
    return converted


def _processing(computation: "Computation", asked: ProofOptions) -> "Processing":
    from .proof.processing import Processing

    return Processing(computation, asked.tokenizer)


def _computation(asked: ProofOptions) -> Callable[[WeightClaims], "Computation"]:
    """What makes the evidence of the claims about the computation. Imports torch and transformers, which takes seconds.

    Raises:
        InvalidInput: there is no such device.
    """
    from .proof.computation import Computation
    from .proof.on_device import check_device

    with quiet(), suppress(Exception):  # what stops this import stops claims later, which then say so
        import_transformers()
    device = check_device(asked.device) if asked.device is not None else None
    return lambda weights: Computation(weights, asked.progress, device)
