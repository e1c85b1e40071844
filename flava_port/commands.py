"""What each command does: it calls one verb, prints, and gives the exit status."""

import sys

from .errors import InvalidInput
from .text import printable

# -------------------------------------------------------------------------------------- commands


def convert(options) -> int:
    from .convert import convert_flava_checkpoint
    from .to_torchmultimodal import convert_to_torchmultimodal

    if options.no_codebook and options.codebook_path:
        raise InvalidInput("pass --codebook_path, or --no-codebook for a model without one")
    if options.verify and (options.part or options.layout == "hf"):
        raise InvalidInput("--verify proves whole models against the checkpoint they came from; it goes with neither --part nor --from hf")
    files = options.checkpoint_path, options.codebook_path, options.pytorch_dump_folder_path, options.config_path
    common = {
        "layout": options.layout,
        "part": options.part,
        "no_codebook": None if options.part else options.no_codebook,
        "dtype": options.dtype,
        "force": options.force,
        "progress": _progress(options),
    }
    if options.to == "torchmultimodal":
        if options.verify or options.max_shard_size or options.head_layer_norm_eps is not None:
            raise InvalidInput("--verify, --max-shard-size and --head-layer-norm-eps go with --to hf")
        return _done(convert_to_torchmultimodal(*files, **common).summary(), options)
    head_eps = options.head_layer_norm_eps
    result = convert_flava_checkpoint(*files, max_shard_size=options.max_shard_size, head_layer_norm_eps=head_eps, **common)
    _done(result.summary(), options)
    if not options.verify:
        return 0
    from .verify import verify_flava_checkpoint

    certificate = verify_flava_checkpoint(
        *files, no_codebook=options.no_codebook, head_layer_norm_eps=head_eps, progress=_progress(options)
    )
    return _done("\n" + certificate.table(), options, certificate.exit_status)


def convert_codebook(options) -> int:
    from .codebook import convert_dalle_checkpoint

    result = convert_dalle_checkpoint(
        options.checkpoint_path,
        options.pytorch_dump_folder_path,
        options.config_path,
        force=options.force,
        progress=_progress(options),
    )
    return _done(result.summary(), options)


def revert(options) -> int:
    from .revert import revert_flava_checkpoint

    result = revert_flava_checkpoint(
        options.converted_path,
        options.checkpoint_path,
        options.codebook_path,
        layout=options.layout,
        to=options.to,
        force=options.force,
        progress=_progress(options),
    )
    return _done(result.summary(), options)


def verify(options) -> int:
    from .verify import verify_flava_checkpoint

    certificate = verify_flava_checkpoint(
        options.checkpoint_path,
        options.codebook_path,
        options.converted_path,
        options.config_path,
        weights_only=options.weights_only,
        device=options.device,
        no_codebook=options.no_codebook,
        head_layer_norm_eps=options.head_layer_norm_eps,
        progress=_progress(options),
    )
    if options.json:
        certificate.write(options.json)
    return _done(certificate.table(), options, certificate.exit_status)


def rules(options) -> int:
    from .rules.describe import describe_table, describe_way
    from .rules.tables import TABLES

    if options.lint is not None or options.order is not None:
        return _analyse_rules(options)
    blocks = [describe_way(key) for key in options.keys] or map(describe_table, TABLES)
    print("\n\n".join(blocks))
    return 0


def _analyse_rules(options) -> int:
    from pathlib import Path

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
    for table, keys in tables:
        keys = given or keys or known_keys(table)
        if options.order is not None:
            print(describe_order(table, keys))
        if options.lint is not None:
            findings = lint(table, keys)
            print(describe_findings(table, keys, findings))
            status = max(status, 1 if findings else 0)
    return status


def layout(options) -> int:
    from pathlib import Path

    from .releases.schema import observe_schema as observe
    from .releases.schema import record
    from .releases.schema import schema_report as report

    observation = observe()
    if options.record is None:
        text, status = report(observation)
        return _done(text, options, status)
    path = record(observation, Path(options.record) if options.record else None)
    return _done(f"{path}: has the layout of transformers {observation.release}", options)


def repair(options) -> int:
    from .repair import repair_model_folder

    repaired = repair_model_folder(
        options.converted_path,
        options.repaired_path,
        keep_zero_biases=options.keep_zero_biases,
        force=options.force,
        progress=_progress(options),
    )
    return _done(repaired.summary(), options)


def drift(options) -> int:
    from .releases.bisect import bisect, describe_step
    from .releases.drift import drift_report as drift_report
    from .releases.environments import observation_of as observation_of
    from .releases.environments import parse, releases_between

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr)

    old, new = parse(options.old), parse(options.new)
    if options.bisect is None:
        text, status = drift_report(observation_of(old, say), observation_of(new, say))
        return _done(text, options, status)
    releases, observe = releases_between(old, new, say)
    steps = 0
    for step in bisect(releases, observe, options.bisect):
        _done(describe_step(step), options)
        steps += 1
    return _done(
        f"{steps} of {len(releases)} releases changed something" + (f" about {options.bisect!r}" if options.bisect else ""),
        options,
        1 if steps else 0,
    )


def demo(options) -> int:
    from .demo import run

    run(options.size, options.keep, progress=_progress(options), say=_say(options))
    return 0


def _progress(options):
    from .progress import bars, silent

    return silent if options.quiet else bars


def _say(options):
    return (lambda *_: None) if options.quiet else print


def _done(summary: str, options, status: int = 0) -> int:
    _say(options)(printable(summary))
    return status
