"""The command line: parses, calls, prints. Exit status 0 done and proven, 1 not faithful, 2 bad input."""

import argparse
import os
import signal
import sys

from . import commands
from .errors import FlavaPortError, InvalidInput
from .text import printable

EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status; what goes wrong is one message on stderr."""
    interrupts = _stop_cleanly_on_signals()
    try:
        _quiet_libraries()
        options = _parser().parse_args(arguments)
        return options.run(options)
    except SystemExit:  # argparse has said all
        raise
    except BaseException as error:
        # An import that is interrupted may turn the interrupt into an error of its own; it was one all the same.
        if (ended := _explain(KeyboardInterrupt() if interrupts else error)) is None:
            raise
        message, status = ended
        if message:
            print(f"flava-port: {printable(message)}", file=sys.stderr)
        return status


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The message and exit status for what went wrong; None for a mistake of ours, which deserves its traceback."""
    match error:
        case FlavaPortError():
            return str(error), error.exit_status
        case KeyboardInterrupt():
            return "interrupted; nothing was changed", EXIT_INTERRUPTED
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
            return "", EXIT_INTERRUPTED
        case MemoryError():
            return "out of memory", InvalidInput.exit_status
        case OSError():
            return f"{error.filename or 'input'}: {error.strerror or error}", InvalidInput.exit_status
    return None


def _quiet_libraries() -> None:
    """No advice and no telemetry from the libraries below; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _stop_cleanly_on_signals() -> list[int]:
    """The first Ctrl-C or kill request ends the work tidily; further ones do not disturb the tidying. It is listed."""
    received: list[int] = []

    def stop(number, _frame):
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return received


# ----------------------------------------------------------------------------------------- flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flava-port",
        description="Converts FLAVA checkpoints to Hugging Face transformers, and proves that nothing changed.",
        epilog="Exit status: 0 done and proven; 1 read, but cannot be converted faithfully; 2 usage or unreadable input.",
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = _command(subparsers, "convert", commands.convert, "an original or torchmultimodal checkpoint to a Hugging Face folder")
    _path(convert, "checkpoint_path", "the checkpoint, a file or an http(s) URL; with --from hf a folder")
    _path(
        convert,
        "codebook_path",
        "OpenAI's DALL-E encoder (encoder.pkl, or its state dict); torchmultimodal's checkpoints hold it",
        required=False,
    )
    _path(convert, "pytorch_dump_folder_path", "the folder to make; with --to torchmultimodal the file")
    _layouts(convert, ("original", "torchmultimodal", "hf"), "told by the keys", ("hf", "torchmultimodal"))
    convert.add_argument(
        "--part", choices=("image", "text", "multimodal", "model"), help="that part alone, for the transformers class of its own"
    )
    _head_eps(convert)
    _path(convert, "config_path", "a config.json or its folder; default: read from the shapes", required=False)
    convert.add_argument("--no-codebook", "--no_codebook", action="store_true", help="convert without an image codebook")
    convert.add_argument("--dtype", default="float32", choices=("float32", "keep"), help="of the weights written (default: %(default)s)")
    convert.add_argument("--max-shard-size", "--max_shard_size", metavar="SIZE", help="split the weights above it, such as 5GB")
    convert.add_argument("--verify", action="store_true", help="then prove that both models compute the same; see verify")
    _writes(convert)

    codebook = _command(subparsers, "convert-codebook", commands.convert_codebook, "a DALL-E encoder to a Hugging Face folder")
    _path(codebook, "checkpoint_path", "OpenAI's DALL-E encoder (encoder.pkl, or its state dict)")
    _path(codebook, "pytorch_dump_folder_path", "the folder to make")
    _path(codebook, "config_path", "a config.json or its folder; default: read from the shapes", required=False)
    _writes(codebook)

    revert = _command(
        subparsers, "revert", commands.revert, "a Hugging Face folder or torchmultimodal checkpoint back to an original checkpoint"
    )
    _path(revert, "converted_path", "the folder, or the torchmultimodal checkpoint")
    _path(revert, "checkpoint_path", "the checkpoint to write")
    _layouts(revert, ("hf", "torchmultimodal"), "a folder or a file", ("original", "torchmultimodal"))
    _path(revert, "codebook_path", "the codebook's state dict to write", required=False)
    _writes(revert)

    verify = _command(subparsers, "verify", commands.verify, "proves that a converted folder is the original model, or says what differs")
    _path(verify, "checkpoint_path", "the original or torchmultimodal checkpoint")
    _path(verify, "codebook_path", "OpenAI's DALL-E encoder; leave out for a model without a codebook", required=False)
    _path(verify, "converted_path", "the folder")
    _path(verify, "config_path", "the original's config, where it is not FLAVA's own", required=False)
    verify.add_argument(
        "--no-codebook", "--no_codebook", action="store_true", help="of a torchmultimodal checkpoint whose codebook was left out"
    )
    _head_eps(verify)
    verify.add_argument("--weights-only", "--weights_only", action="store_true", help="leave out the computation")
    verify.add_argument("--device", metavar="DEVICE", help="run the forward pass there too, such as cuda, in float32 and in bfloat16")
    verify.add_argument("--json", metavar="FILE", help="write the certificate here")
    verify.add_argument("--quiet", action="store_true", help="print nothing but errors")

    rules = _command(subparsers, "rules", commands.rules, "the rename rules, or some keys' way through them")
    rules.add_argument("keys", nargs="*", metavar="KEY")
    rules.add_argument(
        "--lint", nargs="?", const="", metavar="FILE", help="what is wrong with our tables, or with a JSON table; exit status 1 if anything"
    )
    rules.add_argument("--order", nargs="?", const="", metavar="FILE", help="which rule must run before which, and the key that shows it")
    rules.add_argument(
        "--known-keys",
        "--known_keys",
        metavar="FILE",
        help="the keys a table is meant for, one a line (default: ours, or made of its fragments)",
    )

    layout = _command(
        subparsers,
        "layout",
        commands.layout,
        "which schema the installed transformers expects of FLAVA, or what it changed; exit status 1 if anything",
    )
    layout.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="FILE",
        help="add the installed release to the list of known ones in FILE (default: the package's own)",
    )
    layout.add_argument("--quiet", action="store_true", help="print nothing but errors")

    repair = _command(
        subparsers, "repair", commands.repair, "rewrites a folder that transformers saved in the form that loads right in every release"
    )
    _path(repair, "converted_path", "the folder, of any release")
    _path(repair, "repaired_path", "the folder to make (default: in place, once it is whole and proven)", required=False)
    repair.add_argument(
        "--keep-zero-biases",
        "--keep_zero_biases",
        action="store_true",
        help="of a model that was never trained: biases of zero are not lost",
    )
    _writes(repair)

    drift = _command(
        subparsers,
        "drift",
        commands.drift,
        "what changed for FLAVA between releases of transformers or torch; exit status 1 unless it is safe to upgrade",
    )
    what = "a release (4.57.6; torch=2.6.0; transformers=4.57.6,torch=2.6.0), installed, or an observation's file"
    drift.add_argument("--from", dest="old", required=True, metavar="OLD", help=what)
    drift.add_argument("--to", dest="new", default="installed", metavar="NEW", help="the same (default: %(default)s)")
    drift.add_argument(
        "--bisect",
        nargs="?",
        const="",
        metavar="TEXT",
        help="find each release between them that changed something, or something with TEXT in its line",
    )
    drift.add_argument("--quiet", action="store_true", help="print nothing but errors")

    demo = _command(subparsers, "demo", commands.demo, "makes a seeded checkpoint, converts it and proves the result")
    demo.add_argument("--size", default="tiny", choices=("tiny", "full"), help="of the model (default: %(default)s)")
    demo.add_argument("--keep", metavar="DIR", help="keep the files in this folder")
    demo.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _command(subparsers, name: str, run, what: str) -> argparse.ArgumentParser:
    command = subparsers.add_parser(name, help=what, description=f"Converts {what}." if name.startswith("convert") else what)
    command.set_defaults(run=run)
    return command


def _path(command: argparse.ArgumentParser, name: str, what: str, *, required: bool = True) -> None:
    """A flag as upstream writes it, and the same with dashes."""
    command.add_argument(f"--{name}", f"--{name.replace('_', '-')}", required=required, metavar="PATH", help=what)


def _layouts(command: argparse.ArgumentParser, sources: tuple[str, ...], default: str, targets: tuple[str, ...]) -> None:
    command.add_argument("--from", dest="layout", choices=sources, help=f"the layout of what is read (default: {default})")
    command.add_argument("--to", default=targets[0], choices=targets, help="the layout of what is written (default: %(default)s)")


def _head_eps(command: argparse.ArgumentParser) -> None:
    what = "of the layer norms in a torchmultimodal checkpoint's heads (default: 1e-05, its own)"
    command.add_argument("--head-layer-norm-eps", "--head_layer_norm_eps", type=float, metavar="EPS", help=what)


def _writes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help="replace what exists at the target")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _version() -> str:
    from . import __version__

    return f"flava-port {__version__}"
