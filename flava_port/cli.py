"""The command line: parses, calls, prints. The exit statuses are in the text of --help."""

import argparse
import atexit
import gc
import os
import signal
import sys
from types import FrameType
from typing import Any

from . import __version__, commands
from .errors import FlavaPortError, InvalidInput
from .report.terminal import as_on
from .text import printable

EXIT_INTERRUPTED = 130
_FORCE: dict[str, Any] = {
    "action": "store_true",
    "help": "replace the file that exists there, or what flava-port wrote into the folder; what others put there stays",
}
_DROP: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "KEY",
    "help": "leave out the keys in the file that this pattern matches, such as 'classifier.*'; may be given again",
}


def _where_the_model_is(command: argparse.ArgumentParser) -> None:
    _flag(command, "--container", metavar="NAME", help="the dict in the file that is the state dict, where several could be")
    _flag(command, "--prefix", metavar="TEXT", help="what stands before the model's keys, where several prefixes could be")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status. An error becomes one message on stderr."""
    interrupts = _stop_cleanly_on_signals()
    atexit.register(gc.freeze)  # or the last search for garbage, in all that was imported, takes nearly as long as importing torch
    try:
        options = _parser().parse_args(arguments)
        _quiet_libraries(online=_names_the_hub(options))
        return options.run(options)
    except SystemExit:  # argparse has printed its message
        raise
    except BaseException as error:
        # An import that is interrupted may raise an error of its own in place of the interrupt.
        if (ended := _explain(KeyboardInterrupt() if interrupts else error)) is None:
            raise
        message, status = ended
        if message:
            print(as_on(sys.stderr, f"flava-port: {printable(message)}"), file=sys.stderr)
        return status


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The message and exit status for an error; None for a bug of ours, which shows its traceback."""
    match error:
        case FlavaPortError():
            return str(error), error.exit_status
        case KeyboardInterrupt():
            return "interrupted", EXIT_INTERRUPTED
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
            return "", EXIT_INTERRUPTED
        case MemoryError():
            return "out of memory", InvalidInput.exit_status
        case OSError():
            return f"{error.filename or 'input'}: {error.strerror or error}", InvalidInput.exit_status
    return None


def _names_the_hub(options: argparse.Namespace) -> bool:
    """Whether ``--tokenizer`` has the name of a repository, and not of a file that is here."""
    tokenizer = getattr(options, "tokenizer", None)
    return tokenizer is not None and not os.path.exists(tokenizer)


def _quiet_libraries(*, online: bool) -> None:
    """Turns off advice and telemetry of the libraries below, and the network where nothing was asked of it; sets how threads wait.

    They read these variables when they are imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if online else "1")
    # torch's threads sleep while they wait for each other: on a machine that does other work too, spinning takes twice as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


def _stop_cleanly_on_signals() -> list[int]:
    """Makes the first Ctrl-C or kill request raise KeyboardInterrupt, and ignores later ones while the work is undone.

    Returns a list, into which the first signal is put when it comes.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return received


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flava-port",
        description="Converts FLAVA checkpoints to Hugging Face transformers, and proves that nothing changed.",
        epilog="Exit status: 0 done and proven; 1 not faithful, or something changed; 2 usage or unreadable input; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"flava-port {__version__}")
    parser.set_defaults(run=lambda _options: _welcome())
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, run, flags, what in (
        ("convert", commands.convert, _convert, "an original or torchmultimodal checkpoint to a Hugging Face folder"),
        ("convert-codebook", commands.convert_codebook, _convert_codebook, "a DALL-E encoder to a Hugging Face folder"),
        ("revert", commands.revert, _revert, "a Hugging Face folder or torchmultimodal checkpoint back to an original checkpoint"),
        ("verify", commands.verify, _verify, "proves that a converted folder is the original model, or says what differs"),
        ("rules", commands.rules, _rules, "the rename rules, or some keys' way through them"),
        ("layout", commands.layout, _layout, "which schema the installed transformers expects of FLAVA, or what it changed; exit status 1 if anything"),
        ("repair", commands.repair, _repair, "rewrites a folder that transformers saved in the form that loads right in every release"),
        ("drift", commands.drift, _drift, "what changed for FLAVA between releases of transformers or torch; exit status 1 unless it is safe to upgrade"),
        ("observe", commands.observe, _observe, "writes what the installed transformers and torch do with FLAVA to a file, for drift"),
        ("demo", commands.demo, _demo, "makes a seeded checkpoint, converts it and proves the result"),
    ):  # fmt: skip
        command = subparsers.add_parser(name, help=what, description=f"Converts {what}." if name.startswith("convert") else what)
        command.set_defaults(run=run)
        flags(command)
        if flags is not _rules:
            _flag(command, "--quiet", action="store_true", help="print nothing but errors")
    return parser


_WELCOME = """\
flava-port converts FLAVA checkpoints to Hugging Face transformers, and proves that the converted model is the same.

See it work, in seconds and without a checkpoint:
  flava-port demo

With your checkpoint and its image codebook:
  flava-port convert --checkpoint_path flava.pt --codebook_path encoder.pkl --pytorch_dump_folder_path flava-full
  flava-port verify --checkpoint_path flava.pt --codebook_path encoder.pkl --converted_path flava-full

All commands: flava-port --help. One of them: flava-port convert --help."""


def _welcome() -> int:
    """What a newcomer needs. It is no work done, so that the exit status is that of wrong usage."""
    print(_WELCOME)
    return InvalidInput.exit_status


def _convert(command: argparse.ArgumentParser) -> None:
    _path(command, "checkpoint_path", "the checkpoint, a file, a folder or an http(s) URL")
    codebook = "OpenAI's DALL-E encoder (encoder.pkl, its state dict, or converted); torchmultimodal's checkpoints hold it"
    _path(command, "codebook_path", codebook, required=False)
    _path(command, "pytorch_dump_folder_path", "the folder to make; with --to torchmultimodal the file")
    _layouts(command, ("original", "torchmultimodal", "hf"), "told by the keys", ("hf", "torchmultimodal"))
    parts = "image", "text", "multimodal", "model"
    _flag(command, "--part", choices=parts, help="that part alone, for the transformers class of its own")
    _head_eps(command)
    _where_the_model_is(command)
    _flag(command, "--drop", **_DROP)
    _path(command, "config_path", "a config.json or its folder; default: read from the shapes", required=False)
    _flag(command, "--no-codebook", action="store_true", help="convert without an image codebook")
    _tokenizer(command, "whose words the folder's tokenizer gets; default: FLAVA's, if the hub's local cache has it")
    _flag(command, "--dtype", default="float32", choices=("float32", "keep"), help="of the weights written (default: %(default)s)")
    _flag(command, "--max-shard-size", metavar="SIZE", help="split the weights above it, such as 5GB")
    _flag(command, "--verify", action="store_true", help="then prove that both models compute the same; see verify")
    _flag(command, "--force", **_FORCE)


def _convert_codebook(command: argparse.ArgumentParser) -> None:
    _path(command, "checkpoint_path", "OpenAI's DALL-E encoder (encoder.pkl, or its state dict)")
    _path(command, "pytorch_dump_folder_path", "the folder to make")
    _path(command, "config_path", "a config.json or its folder; default: read from the shapes", required=False)
    _where_the_model_is(command)
    _flag(command, "--force", **_FORCE)


def _revert(command: argparse.ArgumentParser) -> None:
    _path(command, "converted_path", "the folder, or the torchmultimodal checkpoint")
    _path(command, "checkpoint_path", "the checkpoint to write")
    _layouts(command, ("hf", "torchmultimodal"), "a folder or a file", ("original", "torchmultimodal"))
    _path(command, "codebook_path", "the codebook's state dict to write", required=False)
    _flag(command, "--force", **_FORCE)


def _verify(command: argparse.ArgumentParser) -> None:
    _path(command, "checkpoint_path", "the checkpoint that was converted")
    _path(command, "codebook_path", "OpenAI's DALL-E encoder; leave out for a model without a codebook", required=False)
    _path(command, "converted_path", "the folder")
    _path(command, "config_path", "the original's config, where it is not FLAVA's own", required=False)
    _flag(command, "--no-codebook", action="store_true", help="of a torchmultimodal checkpoint whose codebook was left out")
    _head_eps(command)
    _tokenizer(command, "the original's; default: bert-base-uncased's, by its digest")
    _where_the_model_is(command)
    _flag(command, "--drop", **_DROP)
    _flag(command, "--weights-only", action="store_true", help="leave out the computation")
    _flag(command, "--device", metavar="DEVICE", help="run the forward pass there too, such as cuda, in float32 and in bfloat16")
    _flag(command, "--json", metavar="FILE", help="write the certificate here")
    _reports(command)


def _rules(command: argparse.ArgumentParser) -> None:
    command.add_argument("keys", nargs="*", metavar="KEY")
    lint = "what is wrong with our tables, or with a JSON table; exit status 1 if anything"
    _flag(command, "--lint", nargs="?", const="", metavar="FILE", help=lint)
    _flag(command, "--order", nargs="?", const="", metavar="FILE", help="which rule must run before which, and the key that shows it")
    known = "the keys a table is meant for, one a line (default: ours, or made of its fragments)"
    _flag(command, "--known-keys", metavar="FILE", help=known)


def _layout(command: argparse.ArgumentParser) -> None:
    record = "add the installed release to the list of known ones in FILE (default: the package's own)"
    _flag(command, "--record", nargs="?", const="", metavar="FILE", help=record)


def _repair(command: argparse.ArgumentParser) -> None:
    _path(command, "converted_path", "the folder, of any release")
    _path(command, "repaired_path", "the folder to make (default: in place, once it is whole and proven)", required=False)
    _flag(
        command, "--keep-zero-biases", action="store_true", help="accept heads' biases of zero, as those of a model that was never trained"
    )
    _flag(command, "--force", **_FORCE)


def _drift(command: argparse.ArgumentParser) -> None:
    what = "a release (4.57.6; torch=2.6.0; transformers=4.57.6,torch=2.6.0), installed, or an observation's file"
    _flag(command, "--from", dest="old", required=True, metavar="OLD", help=what)
    _flag(command, "--to", dest="new", default="installed", metavar="NEW", help="the same (default: %(default)s)")
    bisect = "find each release between them that changed something, or something with TEXT in its line"
    _flag(command, "--bisect", nargs="?", const="", metavar="TEXT", help=bisect)
    _flag(command, "--all", action="store_true", help="print each difference; default: likes together, on a screen")
    _reports(command)


def _observe(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE")


def _demo(command: argparse.ArgumentParser) -> None:
    _flag(command, "--size", default="tiny", choices=("tiny", "full"), help="of the model (default: %(default)s)")
    _flag(command, "--keep", metavar="DIR", help="keep the files in this folder")


def _reports(command: argparse.ArgumentParser) -> None:
    _flag(command, "--markdown", metavar="FILE", help="write it in Markdown here, as $GITHUB_STEP_SUMMARY and a model card take it")
    _flag(command, "--html", metavar="FILE", help="write it as a page here, which loads nothing from elsewhere (needs flava-port[report])")


def _flag(command: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """A flag with dashes, and the same with underscores."""
    command.add_argument(*dict.fromkeys((name, f"--{name[2:].replace('-', '_')}")), **options)


def _path(command: argparse.ArgumentParser, name: str, what: str, *, required: bool = True) -> None:
    """A flag for a path, with underscores as upstream writes it, and the same with dashes."""
    command.add_argument(f"--{name}", f"--{name.replace('_', '-')}", required=required, metavar="PATH", help=what)


def _layouts(command: argparse.ArgumentParser, sources: tuple[str, ...], default: str, targets: tuple[str, ...]) -> None:
    _flag(command, "--from", dest="layout", choices=sources, help=f"the layout of what is read (default: {default})")
    _flag(command, "--to", default=targets[0], choices=targets, help="the layout of what is written (default: %(default)s)")


def _tokenizer(command: argparse.ArgumentParser, what: str) -> None:
    _flag(command, "--tokenizer", metavar="PATH_OR_ID", help=f"a folder, vocab.txt, tokenizer.json or name on the hub: {what}")


def _head_eps(command: argparse.ArgumentParser) -> None:
    what = "of the layer norms in a torchmultimodal checkpoint's heads (default: 1e-05, its own)"
    _flag(command, "--head-layer-norm-eps", type=float, metavar="EPS", help=what)
