"""What each command does: it calls one verb, prints the result, and returns the exit status.

Imports are inside the functions, so that a command imports only what it needs.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .errors import InvalidInput
from .report.files import check_report_files, write_report
from .report.terminal import as_on
from .text import printable

if TYPE_CHECKING:
    from .proof.certificate import Claim
    from .releases.bisect import Transition


def convert(options: Namespace) -> int:
    from .convert import convert_flava_checkpoint
    from .to_torchmultimodal import convert_to_torchmultimodal

    _check_convert_options(options)
    files = options.checkpoint_path, options.codebook_path, options.pytorch_dump_folder_path, options.config_path
    common = _given(options, *_WHERE, "layout", "part", "dtype", "force") | {"no_codebook": None if options.part else options.no_codebook}
    if options.to == "torchmultimodal":
        return _done(convert_to_torchmultimodal(*files, **common).summary(), options)
    for_models = _given(options, "head_layer_norm_eps", "tokenizer")
    result = convert_flava_checkpoint(*files, **common | for_models | _given(options, "max_shard_size"))
    _done(result.summary(), options)
    if not options.verify:
        return 0
    from .target.card import add_to_card
    from .verify import verify_flava_checkpoint

    _done("", options)
    with _claims_shown(options) as settled:
        certificate = verify_flava_checkpoint(*files, settled=settled, **for_models | _given(options, *_WHERE, "layout", "no_codebook"))
    add_to_card(result.folder, [f"verified: {claim.name}: {claim.verdict.value}. {claim.summary}" for claim in certificate.claims])
    return _done("\n" + certificate.conclusion(), options, certificate.exit_status)


_WHERE = "container", "prefix", "drop"  # where the model stands in its file, and what is left out of it


def _check_convert_options(options: Namespace) -> None:
    """Stops where two options contradict each other."""
    if options.no_codebook and options.codebook_path:
        raise InvalidInput("pass --codebook_path, or --no-codebook for a model without one")
    for_transformers = options.verify or options.max_shard_size or options.head_layer_norm_eps is not None or options.tokenizer
    if options.to == "torchmultimodal" and for_transformers:
        raise InvalidInput("--verify, --max-shard-size, --head-layer-norm-eps and --tokenizer go with --to hf")


def convert_codebook(options: Namespace) -> int:
    from .codebook import convert_dalle_checkpoint

    result = convert_dalle_checkpoint(
        **_given(options, "checkpoint_path", "pytorch_dump_folder_path", "config_path", "container", "prefix", "force")
    )
    assert not isinstance(result, dict)  # which it is with save_checkpoint=False
    return _done(result.summary(), options)


def revert(options: Namespace) -> int:
    from .revert import revert_flava_checkpoint

    given = _given(options, "converted_path", "checkpoint_path", "codebook_path", "layout", "to", "force")
    return _done(revert_flava_checkpoint(**given).summary(), options)


def verify(options: Namespace) -> int:
    from .verify import verify_flava_checkpoint

    check_report_files([options.json, options.markdown], page=options.html)
    files = options.checkpoint_path, options.codebook_path, options.converted_path, options.config_path
    given = _given(options, *_WHERE, "weights_only", "device", "no_codebook", "head_layer_norm_eps", "tokenizer")
    with _claims_shown(options) as settled:
        certificate = verify_flava_checkpoint(*files, settled=settled, **given)
    if options.json:
        certificate.write(options.json)
    if options.markdown:
        from .report.markdown import proof_in_markdown

        write_report(options.markdown, proof_in_markdown(certificate))
    if options.html:
        from .report.page import proof_page

        write_report(options.html, proof_page(certificate))
    return _done("\n" + certificate.conclusion(), options, certificate.exit_status)


@contextmanager
def _claims_shown(options: Namespace) -> Iterator[Callable[["Claim"], object]]:
    """What prints each claim of a proof when it is settled. Where the proof is interrupted, what was proven so far is said."""
    from .proof.certificate import claim_texts, so_far

    claims: list[Claim] = []

    def settled(claim: "Claim") -> None:
        claims.append(claim)
        *_, text = claim_texts(claims)
        _done(text, options)

    try:
        yield settled
    except KeyboardInterrupt:
        _done("\n" + so_far(claims), options)
        raise


def rules(options: Namespace) -> int:
    from .rules.describe import describe_table, describe_way
    from .rules.tables import TABLES

    if options.lint is not None or options.order is not None:
        return _analyse_rules(options)
    blocks = [describe_way(key) for key in options.keys] or map(describe_table, TABLES)
    _print("\n\n".join(blocks))
    return 0


def _analyse_rules(options: Namespace) -> int:
    from .rules.from_file import known_keys, read_keys, read_table
    from .rules.lint import describe_findings, lint
    from .rules.order import describe_order
    from .rules.tables import TABLES

    if options.keys:
        raise InvalidInput("KEY goes with neither --lint nor --order; see --known-keys")
    path = options.lint or options.order
    tables = [read_table(Path(path))] if path else [(table, ()) for table in TABLES]
    given = read_keys(Path(options.known_keys)) if options.known_keys else ()
    status = 0
    for table, own in tables:
        keys = given or own or known_keys(table)
        if options.order is not None:
            _print(describe_order(table, keys))
        if options.lint is not None:
            findings = lint(table, keys)
            _print(describe_findings(table, keys, findings))
            status = max(status, 1 if findings else 0)
    return status


def layout(options: Namespace) -> int:
    import transformers

    from .releases.recorder import record_release, schema_report
    from .target.installed import source_digest
    from .target.schema import observe_schema

    release, schema = transformers.__version__, observe_schema()
    if options.record is None:
        text, status = schema_report(release, schema)
        return _done(text, options, status)
    sources = source_digest()
    assert sources is not None  # it builds a FLAVA
    return _done(record_release(release, sources, schema, Path(options.record) if options.record else None), options)


def repair(options: Namespace) -> int:
    from .repair import repair_model_folder

    return _done(repair_model_folder(**_given(options, "converted_path", "repaired_path", "keep_zero_biases", "force")).summary(), options)


def drift(options: Namespace) -> int:
    from .releases.bisect import Transition
    from .releases.comparison import compare
    from .releases.environments import check_exists, observation_of, parse

    check_report_files([options.markdown], page=options.html)
    if options.bisect is not None:
        return _bisect(options)
    sides = parse(options.old), parse(options.new)
    for side in sides:  # before minutes are spent on the other
        check_exists(side)
    say = _say(options, sys.stderr)
    old, new = (observation_of(side, say) for side in sides)
    report = compare(old, new)
    _report_drift(options, [Transition(old, new, list(report.changes))])
    return _done(report.text(everything=options.all), options, report.exit_status)


def observe(options: Namespace) -> int:
    check_report_files([options.file])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # what forks later warns otherwise
    from .releases.observation import write
    from .releases.observe import observe_installed

    write(observe_installed(fresh=True), Path(options.file))
    return _done(f"wrote    {options.file}; compare: flava-port drift --from {options.file}", options)


def _report_drift(options: Namespace, steps: Sequence["Transition"]) -> None:
    if options.markdown:
        from .report.markdown import drift_in_markdown

        write_report(options.markdown, drift_in_markdown(steps))
    if options.html:
        from .report.page import drift_page

        write_report(options.html, drift_page(steps))


def _bisect(options: Namespace) -> int:
    from .releases.bisect import bisect, describe_step
    from .releases.environments import parse, releases_between

    releases, observe = releases_between(parse(options.old), parse(options.new), _say(options, sys.stderr))
    steps = []
    for step in bisect(releases, observe, options.bisect):
        _done(describe_step(step), options)
        steps.append(step)
    if steps:
        _report_drift(options, steps)
    count = len(steps)
    about = f" about {options.bisect!r}" if options.bisect else ""
    return _done(f"{count} of {len(releases)} releases changed something{about}", options, 1 if count else 0)


def demo(options: Namespace) -> int:
    from .demo import run

    run(**_given(options, "size", "keep"), say=_say(options))
    return 0


def _given(options: Namespace, *names: str) -> dict[str, Any]:
    """These options by name, and the progress to show, as the verbs' functions take them."""
    from .progress import bars, silent

    return {name: getattr(options, name) for name in names} | {"progress": silent if options.quiet else bars}


def _say(options: Namespace, stream: TextIO | None = None) -> Callable[[str], object]:
    """A function that prints a line, by default to stdout; with ``--quiet`` it prints nothing."""
    return (lambda _: None) if options.quiet else lambda line: _print(line, stream)


def _print(text: str, stream: TextIO | None = None) -> None:
    """Prints as it suits where it is read: a terminal, or a pipe."""
    to = stream or sys.stdout
    print(as_on(to, text), file=to, flush=True)


def _done(summary: str, options: Namespace, status: int = 0) -> int:
    """Prints the summary, unless ``--quiet`` is given, and returns the exit status."""
    _say(options)(printable(summary))
    return status
