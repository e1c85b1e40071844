"""The proof that a converted folder is the original model: keys, values, config, ties, then computation.

Each claim ends as proven, as differing with the culprits named in both layouts, or as not proven
with the reason; one that could not run never counts as proven.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import background
from . import config as configs
from .claims import Claim, Finding, Verdict
from .compare import compare_values
from .digests import file_sha256
from .dtypes import FLOAT32, FLOATS
from .errors import FlavaPortError, InvalidInput, NotFaithful
from .layout import POSITION_IDS, TIED, expected_layout, import_transformers, lost_in, quiet
from .model_folder import read_model_folder
from .output import RECORD
from .parts import PARTS, WHOLE, WITHOUT_CODEBOOK, Part
from .placing import Placed, Source, account, counts_up, names_of, rename_all, shapes_of
from .port import has_codebook, loading_dtype, open_sources
from .progress import Progress, silent
from .recognise import Kind
from .semantics import Semantics, semantics_of
from .staging import staged_files
from .tensors import StoredTensor, TensorSource
from .to_checkpoint import codebook_state_dict, original_state_dict
from .unpickle import UnsupportedTensor
from .versions import recorded_versions
from .writing import write_json

FINDINGS_SHOWN = 5


@dataclass
class Certificate:
    """Every claim, the versions it was checked with, and the digests of both sides."""

    claims: list[Claim]
    versions: dict[str, str]
    digests: dict[str, str]
    asked: str = "everything"

    @property
    def verdict(self) -> Verdict:
        """Differs if any claim does; proven only if every claim that was asked for is."""
        verdicts = {claim.verdict for claim in self.claims}
        return next((v for v in (Verdict.DIFFERS, Verdict.NOT_PROVEN) if v in verdicts), Verdict.PROVEN)

    @property
    def exit_status(self) -> int:
        return 0 if self.verdict is Verdict.PROVEN else NotFaithful.exit_status

    def write(self, path: str | Path) -> None:
        """The certificate as JSON; an existing file is replaced whole."""
        target = Path(path).absolute()
        with staged_files([target]) as (partial,):
            write_json(partial, self.as_json())

    def as_json(self) -> dict:
        claims = [{**asdict(claim), "verdict": claim.verdict.value} for claim in self.claims]
        return {"verdict": self.verdict.value, "asked": self.asked, "versions": self.versions, "digests": self.digests, "claims": claims}

    def table(self) -> str:
        """A line a claim, the culprits under it, the verdict last."""
        lines = []
        for claim in self.claims:
            lines.append(f"{claim.verdict.value:<11} {claim.name:<18} {claim.summary}".rstrip())
            shown = claim.findings[:FINDINGS_SHOWN]
            lines += [f"    {line}" for finding in shown for line in str(finding).splitlines()]
            if len(claim.findings) > len(shown):
                lines.append(f"    ... and {len(claim.findings) - len(shown)} more")
        rest = "" if self.asked == "everything" else f" (of {self.asked}; the computation was not verified)"
        return "\n".join([*lines, "", f"verdict: {self.verdict.value}{rest}"])


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
    if configs.declared_class(folder) in {part.model_class for part in PARTS.values()}:
        raise InvalidInput(
            f"{folder}: is for {configs.declared_class(folder)}; verify proves whole models, so convert one without --part and verify that"
        )
    with ExitStack() as downloads:
        sources = open_sources(checkpoint_path, codebook_path, None, downloads, progress)
        made_by = semantics_of(sources[0].kind)
        if head_layer_norm_eps is not None:
            made_by = replace(made_by, head_layer_norm_eps=head_layer_norm_eps)
        converted = read_model_folder(folder)
        config = configs.read_config(folder)
        computation = None if weights_only else background.begin(_computation, device)
        if device is not None and computation is not None:
            computation.result()  # which stops here if there is no such device
        certificate = Certificate([], recorded_versions(), {s.checkpoint.path.name: file_sha256(s.checkpoint.path) for s in sources})
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
        declared = configs.read_config(Path(config_path)) if config_path is not None else record and record["config"]
        part = WITHOUT_CODEBOOK if no_codebook else WHOLE
        proof = _Weights(sources, part, made_by, folder, converted, config, declared, record["keys"] if record else set())
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


def _computation(device: str | None) -> Callable[["_Weights", Progress], Iterable[tuple[str, Callable[[Claim], None]]]]:
    """What judges the computation; torch and transformers are imported here, as nothing else needs them.

    Raises:
        InvalidInput: there is no such device.
    """
    from .computation import Sides, compare_computation
    from .on_device import check_device

    with quiet(), suppress(Exception):  # whatever stops it stops a claim too, which says so
        import_transformers()
    where = check_device(device) if device is not None else None

    def compute(proof: "_Weights", progress: Progress):
        originals = {key: (placed.name_in_file, placed.tensor) for key, placed in proof.placed.items()}
        sides = Sides(*proof.state_dicts(), proof.folder, proof.expected_config(), originals, proof.made_by, proof.name_of)
        return compare_computation(sides, progress, where)

    return compute


def read_record(folder: Path, digests: Collection[str]) -> dict | None:
    """What `convert` recorded in the folder, if it was converted from the files with these sha256 digests."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        same_files = all(source["sha256"] in digests for source in record["sources"].values())
        return {"config": configs.normal_form(record["config"]), "keys": set(record["tensors"])} if same_files else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, FlavaPortError):
        return None


class _Weights:
    """The claims about what is in the files; each method checks one."""

    def __init__(
        self,
        sources: list[Source],
        part: Part,
        made_by: Semantics,
        folder: Path,
        converted: Mapping[str, StoredTensor | UnsupportedTensor],
        config: dict,
        declared: dict | None,
        recorded: Set[str],
    ):
        self.sources, self.part, self.made_by = sources, part, made_by
        self.folder, self.config, self.declared, self.recorded = folder, config, declared, recorded
        self.converted = {key: tensor for key, tensor in converted.items() if key != POSITION_IDS}
        self.position_ids = converted.get(POSITION_IDS)
        self.renamed: dict[str, Placed] = {}
        self.placed: dict[str, Placed] = {}
        self.dropped: list[Placed] = []
        self.digests: dict[str, str] = {}
        self.whole = False

    def expected_config(self) -> dict:
        """Sizes from the original's shapes; the rest as declared, or FLAVA's."""
        from_shapes, _ = configs.config_from_shapes(shapes_of(self.renamed), self.made_by)
        with_codebook = self.part is WHOLE and has_codebook(self.sources)
        return configs.merged(from_shapes, self.declared) | {"init_codebook": with_codebook}

    def name_of(self, target: str) -> str:
        """The source's name for a converted key."""
        return names_of(self.sources)(target)

    def state_dicts(self) -> tuple[Mapping[str, TensorSource], Mapping[str, TensorSource] | None]:
        """The original's layout of what was placed: the model's state dict, and the codebook's where there is one.

        An original's own keys stand as they are; of what it may leave out (position_ids, second copies, one key of
        a tied bias) it gets what was proven to be the same.
        """
        tensors = {key: placed.tensor for key, placed in self.placed.items()}
        model = original_state_dict(tensors) if self.whole else {}
        own = self.sources[0].checkpoint.tensors if self.sources[0].kind is Kind.ORIGINAL else {}
        return {**model, **own}, codebook_state_dict(tensors) or None

    def original(self, claim: Claim) -> None:
        """The original is whole: every key placed, second copies equal, position_ids counting up."""
        self.renamed, self.dropped = rename_all(self.sources)
        self.placed = self.renamed
        placement = account(self.placed, self.dropped, expected_layout(self.expected_config(), self.part).shapes, self.part)
        self.placed, self.whole = dict(placement.filled), True
        claim.verdict = Verdict.PROVEN
        claim.summary = f"{len(self.placed)} keys placed, {len(placement.dropped)} dropped with proof"

    def keys(self, claim: Claim) -> None:
        """The converted side has each key of the original and no other; one of a tied pair is enough, unless both were written."""
        twins = {**dict(TIED), **{other: one for one, other in TIED}}
        absent = [key for key in self.placed if key not in self.converted]
        missing = [key for key in absent if key in self.recorded or twins.get(key) not in self.converted]
        extra = [key for key in self.converted if key not in self.placed]
        claim.findings += [Finding(key, self.placed[key].name_in_file, "missing in the converted folder") for key in missing]
        claim.findings += [Finding(key, self.name_of(key), "the original has no such key") for key in extra]
        _settle(claim, f"{len(self.converted)} keys on the converted side")

    def shapes_and_dtypes(self, claim: Claim) -> None:
        for key in self._common():
            ours, theirs = self.converted[key], self.placed[key].tensor
            if isinstance(ours, UnsupportedTensor):
                claim.findings.append(Finding(key, self.placed[key].name_in_file, f"is a {ours.kind} tensor"))
            elif ours.shape != theirs.shape:
                claim.findings.append(
                    Finding(key, self.placed[key].name_in_file, f"shape {list(ours.shape)}, the original's is {list(theirs.shape)}")
                )
            elif ours.dtype not in (FLOAT32, theirs.dtype) or ours.dtype not in FLOATS:
                claim.findings.append(Finding(key, self.placed[key].name_in_file, f"{ours.dtype}; float32 or {theirs.dtype} belongs"))
        _settle(claim, "all equal")

    def values(self, claim: Claim) -> None:
        """Every value, bit for bit."""
        common: dict[str, TensorSource] = {
            key: tensor for key in self._common() if isinstance(tensor := self.converted[key], StoredTensor) and tensor.dtype in FLOATS
        }
        originals = {key: (self.placed[key].name_in_file, self.placed[key].tensor) for key in common}
        claim.findings, self.digests = compare_values(common, originals)
        if self.position_ids is not None and not counts_up(self.position_ids, self.config["text_config"]["max_position_embeddings"]):
            claim.findings.append(
                Finding(POSITION_IDS, self.name_of(POSITION_IDS), "does not count 0, 1, 2, ...; releases up to 4.30.2 read it")
            )
        _settle(claim, f"{len(common)} tensors equal, bit for bit" if common else "")
        if not common:
            claim.verdict = Verdict.NOT_PROVEN

    def ties(self, claim: Claim) -> None:
        """Each head's bias is one value under both keys; where one is left out, some releases lose it."""
        alone = [pair for pair in TIED if sum(key in self.converted for key in pair) == 1]
        if not self.config["tie_word_embeddings"]:
            claim.findings.append(Finding("tie_word_embeddings", "", "false in the config: transformers 5 loads the heads untied"))
        says_tied = "tie_word_embeddings" in configs.declared_fields(self.folder)
        lost = sorted(
            {
                release
                for _, other in alone
                for release in lost_in("decoder.bias" if other in self.converted else "bias", says_tied=says_tied)
            }
        )
        note = f"; {len(alone)} of them under one key only" if alone else ""
        note += f", which transformers {' and '.join(lost)} lose: flava-port repair writes both" if lost else ""
        _settle(claim, f"{len(TIED)} head biases{note}")

    def config_fields(self, claim: Claim) -> None:
        """Every field that changes what is computed, the dtype to load in, and what we wrote of the pixels."""
        expected = self.expected_config()
        for name, actual, wanted in configs.differences(self.config, expected):
            claim.findings.append(Finding(name, "", f"{actual!r}, the original's is {wanted!r}{self._source_of_field(name)}"))
        held = loading_dtype({key: tensor for key, tensor in self.converted.items() if isinstance(tensor, StoredTensor)})
        for name, declared in configs.declared_dtypes(self.folder):
            if declared != held:
                claim.findings.append(Finding(name, "", f"{declared!r}, the weights are {held}: transformers 5 loads what the config says"))
        for name, actual, wanted in configs.preprocessor_differences(self.folder, expected) if self.recorded else ():
            claim.findings.append(Finding(name, "", f"{actual!r}, {wanted!r} was written; images would reach the model otherwise"))
        told = configs.unusual(self.declared) if self.declared else []
        _settle(claim, ("as declared: " + ", ".join(told)) if told else "FLAVA's own, for what no shape tells")

    def _source_of_field(self, name: str) -> str:
        assumed = name.endswith("num_attention_heads") and not self.declared
        return ", assumed as no shape tells it; --config_path takes the original's config" if assumed else ""

    def _common(self) -> list[str]:
        return [key for key in self.placed if key in self.converted]


def _settle(claim: Claim, summary: str) -> None:
    claim.verdict = Verdict.DIFFERS if claim.findings else Verdict.PROVEN
    claim.summary = f"{len(claim.findings)} found" if claim.findings else summary
