"""The proof that a converted folder is the original model: keys, values, config, ties, then the computation.

Each claim ends as proven, as differing with the culprits named in both layouts, or as not proven with the reason.
A claim that could not be checked is not proven, and nor is the folder; where there is nothing to check (a folder without a
tokenizer), the verdict names what it does not speak of.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conversion.plan import config_beside
from .errors import InvalidInput
from .files.checkpoint import READ_AT_ONCE, READ_BESIDE_IMPORTS, file_sha256
from .files.shards import INDEX
from .files.watch import Watch
from .progress import Progress, in_background, silent
from .proof.certificate import Certificate, Claim, Verdict
from .proof.claims import ABOUT_THE_FILES, ABOUT_THE_LOADING, ABOUT_THE_PROCESSOR, UNCHANGED, Check, about_the_computation
from .proof.weights import Given, WeightClaims, recorded_keys
from .reading.options import Options
from .reading.sources import Source, has_codebook, open_folder, open_sources
from .rules.layouts import semantics_of
from .target.config import read_part_config
from .target.installed import import_transformers, no_garbage_collected, quiet, recorded_versions
from .target.known import doubts_about_the_installed
from .target.parts import CODEBOOK_PART, WHOLE, WITHOUT_CODEBOOK, Part
from .target.preprocessor import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from .target.tokenizer import TOKENIZER_FILES

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
    layout: str | None = None  # of the checkpoint: original, torchmultimodal or hf; None to tell it by the keys
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

    The checkpoint is in any layout; torchmultimodal's holds its codebook. ``config_path`` says
    what no shape tells of the original (heads, activation, epsilon). Without it FLAVA's own hold: what the folder
    says of itself is compared, and never believed. For ``options`` see `ProofOptions`.

    Raises:
        InvalidInput: one side cannot be read, or there is no such device.
        NotFaithful: the original's shapes fit no FLAVA, or one key of the folder has two values.
    """
    asked = ProofOptions(**options)
    folder = Path(converted_path)
    where = {name: getattr(asked, name) for name in ("layout", "container", "prefix", "drop", "progress")}
    opening = Options(checkpoint_path, codebook_path, config_path, tokenizer=asked.tokenizer, **where)
    watch = Watch([folder, *opening.local_paths()])
    if (converted := open_folder(folder)).part is CODEBOOK_PART:  # whose own file is then the checkpoint
        opening = replace(opening, checkpoint_path=None, codebook_path=codebook_path or checkpoint_path)
    with open_sources(opening) as sources:
        watch.add(file for source in sources for file in source.files)
        part = _part(converted, sources, asked)
        runs = not asked.weights_only and part in (WHOLE, WITHOUT_CODEBOOK)
        runner = in_background(_computation, asked) if runs else None
        if runner is not None and asked.device is not None:
            runner.result()  # stops here if there is no such device
        certificate = Certificate([], recorded_versions(), _digests(sources, folder, beside_imports=runs), *_asked(asked, part))

        weights = WeightClaims(_given(sources, part, folder, converted, opening, asked, certificate.digests))
        _settle(ABOUT_THE_FILES, weights, certificate, asked)
        certificate.digests |= weights.digests
        certificate.keys, certificate.lost_in = weights.mapped, weights.lost_in
        run = runner.result() if runner is not None else None  # two threads that import at once disturb each other
        _settle(() if asked.weights_only else ABOUT_THE_LOADING, weights, certificate, asked)
        if run is not None:
            computation = run(weights)
            _settle(about_the_computation(computation), computation, certificate, asked)
            _settle(ABOUT_THE_PROCESSOR, _processing(computation, asked), certificate, asked)
        _settle((UNCHANGED,), watch, certificate, asked)
    return replace(certificate, doubts=_doubts(certificate))


def _doubts(certificate: Certificate) -> str:
    """What to say of the installed transformers if the folder is not proven: its files may be right, and transformers not."""
    if certificate.verdict is Verdict.PROVEN:
        return ""
    about_the_files = certificate.claims[: len(ABOUT_THE_FILES)]
    return doubts_about_the_installed(files_are_right=all(claim.verdict is Verdict.PROVEN or claim.left_open for claim in about_the_files))


def _settle(checks: Iterable[Check[Any]], evidence: Any, certificate: Certificate, asked: ProofOptions) -> None:
    """Adds the claims, and shows each when it is judged."""
    for check in checks:
        certificate.claims.append(check.settle(evidence))
        asked.settled(certificate.claims[-1])


def _digests(sources: Sequence[Source], folder: Path, *, beside_imports: bool) -> dict[str, str]:
    """The sha256 of the sources' files, and of those that say how the folder's weights are loaded and used."""
    described = ("config.json", PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, INDEX, *TOKENIZER_FILES)
    paths = {path.name: path for source in sources for path in source.files}
    paths |= {f"{folder.name}/{name}": folder / name for name in described if (folder / name).is_file()}
    at_once = READ_BESIDE_IMPORTS if beside_imports else READ_AT_ONCE
    hashing = {name: in_background(file_sha256, path, at_once) for name, path in paths.items()}
    return {name: digest.result() for name, digest in hashing.items()}


def _given(
    sources: Sequence[Source],
    part: Part,
    folder: Path,
    converted: Source,
    opening: Options,
    asked: ProofOptions,
    digests: Mapping[str, str],
) -> Given:
    config = read_part_config(folder, part)
    declared = config_beside(sources[0], opening) if opening.config_path is None else read_part_config(Path(opening.config_path), part)
    made_by = semantics_of(sources[0].layout, asked.head_layer_norm_eps)
    return Given(sources, part, made_by, folder, converted.tensors, config, declared, recorded_keys(folder, digests.values()))


def _part(converted: Source, sources: Sequence[Source], asked: ProofOptions) -> Part:
    """The part of FLAVA that the folder is of.

    Raises:
        InvalidInput: it holds a codebook whose file was not given, or none of what the checkpoint holds.
    """
    part = WITHOUT_CODEBOOK if converted.part is WHOLE and asked.no_codebook else converted.part
    if any(map(CODEBOOK_PART.holds, converted.tensors)) and not (has_codebook(sources) or asked.no_codebook):
        what = "holds an image codebook; pass the file that it was made of, too"
        raise InvalidInput(f"{converted.checkpoint.path.parent}: {what}: --codebook_path (in pytest --flava-codebook)")
    return part


def _asked(asked: ProofOptions, part: Part) -> tuple[str, str]:
    """What the certificate is about, and what it is not about."""
    if asked.weights_only:
        return "the weights and configs", "how transformers loads them, the computation, what becomes of images and texts"
    if part in (WHOLE, WITHOUT_CODEBOOK):
        return "everything", ""
    return f"{part.model_class}'s weights, configs and loading", "the computation, which whole models are run for"


def _processing(computation: "Computation", asked: ProofOptions) -> "Processing":
    from .proof.processing import Processing

    return Processing(computation, asked.tokenizer)


def _computation(asked: ProofOptions) -> Callable[[WeightClaims], "Computation"]:
    """What makes the evidence of the claims about the computation. Imports torch and transformers, which takes seconds.

    Raises:
        InvalidInput: there is no such device.
    """
    with no_garbage_collected():
        from .proof.computation import Computation
        from .proof.on_device import check_device

        with quiet(), suppress(Exception):  # what stops this import stops claims later, which then say so
            import_transformers()
    device = check_device(asked.device) if asked.device is not None else None
    return lambda weights: Computation(weights, asked.progress, device)
