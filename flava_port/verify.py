"""The proof that a converted folder is the original model: keys, values, config, ties, then computation.

Each claim ends as proven, as differing with the culprits named in both layouts, or as not proven
with the reason; one that could not run never counts as proven.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .conversion.options import Options
from .conversion.sources import open_sources, read_model_folder
from .errors import FlavaPortError, InvalidInput, NotFaithful
from .files.checkpoint import file_sha256
from .progress import Progress, in_background, silent
from .proof.certificate import Certificate, Claim, Verdict
from .proof.weights import WeightClaims, read_record
from .rules.layouts import semantics_of
from .target.config import declared_class, read_config
from .target.installed import import_transformers, quiet, recorded_versions
from .target.parts import PARTS, WHOLE, WITHOUT_CODEBOOK


def verify_flava_checkpoint(
    checkpoint_path: str | Path,
    codebook_path: str | Path | None,
    converted_path: str | Path,
    config_path: str | Path | None = None,
    *,
    weights_only: bool = False,
    device: str | None = None,
    no_codebook: bool = False,
    head_layer_norm_eps: float | None = None,
    progress: Progress = silent,
) -> Certificate:
    """Proves, or refutes, that the folder is the same model as the checkpoint and its codebook.

    The checkpoint may be the original's or torchmultimodal's, which holds its codebook (``no_codebook`` where
    it was left out) and whose heads have an epsilon of their own.

    ``config_path`` says what no shape tells of the original (heads, activation, epsilon) where it is not
    FLAVA's; without it, the folder's own record of its conversion does, and else FLAVA's defaults.
    ``device`` is where the forward pass is run besides, such as ``cuda``, in float32 and in bfloat16.

    Raises:
        InvalidInput: one side cannot be read, or there is no such device.
    """
    folder = Path(converted_path)
    if declared_class(folder) in {part.model_class for part in PARTS.values()}:
        raise InvalidInput(
            f"{folder}: is for {declared_class(folder)}; verify proves whole models, so convert one without --part and verify that"
        )
    with open_sources(Options(checkpoint_path, codebook_path, progress=progress)) as sources:
        made_by = semantics_of(sources[0].layout)
        if head_layer_norm_eps is not None:
            made_by = replace(made_by, head_layer_norm_eps=head_layer_norm_eps)
        digests = {source.checkpoint.path.name: in_background(file_sha256, source.checkpoint.path) for source in sources}
        converted = read_model_folder(folder)
        config = read_config(folder)
        computation = None if weights_only else in_background(_computation, device)
        if device is not None and computation is not None:
            computation.result()  # which stops here if there is no such device
        certificate = Certificate([], recorded_versions(), {name: digest.result() for name, digest in digests.items()})
        certificate.asked = "the weights" if weights_only else "everything"

        def claim(name: str, check: Callable[[Claim], None]) -> None:
            """Runs one check; whatever stops it leaves the claim unproven, with the reason."""
            made = Claim(name)
            certificate.claims.append(made)
            try:
                check(made)
            except NotFaithful as error:
                made.verdict, made.summary = Verdict.DIFFERS, str(error)
            except FlavaPortError as error:
                made.summary = str(error)
            except Exception as error:  # a check that breaks has proven nothing, whatever broke it
                made.summary = f"could not run: {type(error).__name__}: {error}"

        record = read_record(folder, set(certificate.digests.values()))
        declared = read_config(Path(config_path)) if config_path is not None else record and record["config"]
        part = WITHOUT_CODEBOOK if no_codebook else WHOLE
        proof = WeightClaims(sources, part, made_by, folder, converted, config, declared, record["keys"] if record else set())
        claim("original", proof.original)
        claim("keys", proof.keys)
        claim("shapes, dtypes", proof.shapes_and_dtypes)
        claim("values", proof.values)
        claim("tied weights", proof.ties)
        claim("config", proof.config_fields)
        certificate.digests |= proof.digests
        if computation is not None:
            for name, result in computation.result()(proof, progress):
                claim(name, result)
    return certificate


def _computation(device: str | None) -> Callable[["WeightClaims", Progress], Iterable[tuple[str, Callable[[Claim], None]]]]:
    """What judges the computation; torch and transformers are imported here, as nothing else needs them.

    Raises:
        InvalidInput: there is no such device.
    """
    from .proof.judge import compare_computation
    from .proof.on_device import check_device
    from .proof.sides import Sides

    with quiet(), suppress(Exception):  # whatever stops it stops a claim too, which says so
        import_transformers()
    where = check_device(device) if device is not None else None

    def compute(proof: "WeightClaims", progress: Progress):
        originals = {key: (placed.name_in_file, placed.tensor) for key, placed in proof.placed.items()}
        sides = Sides(*proof.state_dicts(), proof.folder, proof.expected_config(), originals, proof.made_by, proof.name_of)
        return compare_computation(sides, progress, where)

    return compute
