"""The options of pytest with which any suite can prove a converted checkpoint, or observe its environment.

It is pytest's entry point, so every suite on the same machine imports it: it imports nothing until an option is given.
"""

from pathlib import Path

import pytest

# The options of `verify` beside its files, as keywords; those of the command line have the same names.
VERIFY_OPTIONS = ("tokenizer", "no_codebook", "head_layer_norm_eps", "layout", "container", "prefix", "drop")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flava-port", "FLAVA checkpoint under test (flava-port): pytest --pyargs flava_port.acceptance")
    group.addoption("--flava-checkpoint", metavar="P", help="your original or torchmultimodal checkpoint")
    group.addoption("--flava-codebook", metavar="C", help="its codebook: OpenAI's DALL-E encoder; leave out for a model without one")
    group.addoption("--flava-converted", metavar="OUT", help="the folder that was converted from them")
    group.addoption("--flava-tokenizer", metavar="T", help="the original's tokenizer, where it is not bert-base-uncased's; see verify")
    group.addoption("--flava-config", metavar="CFG", help="the original's config.json, where it is not FLAVA's own")
    group.addoption("--flava-no-codebook", action="store_true", help="the folder was converted without the checkpoint's codebook")
    group.addoption(
        "--flava-head-layer-norm-eps", type=float, metavar="EPS", help="of the heads of a torchmultimodal checkpoint; see verify"
    )
    group.addoption("--flava-layout", choices=("original", "torchmultimodal", "hf"), help="of the checkpoint (default: told by the keys)")
    group.addoption("--flava-container", metavar="NAME", help="the dict in the checkpoint's file that is the model; see convert")
    group.addoption("--flava-prefix", metavar="PREFIX", help="what stands before the model's keys there; see convert")
    group.addoption(
        "--flava-drop", action="append", default=[], metavar="KEY", help="a key, or a pattern of keys, to leave out; see convert"
    )
    group.addoption(
        "--observe",
        metavar="FILE",
        help="write what this environment's transformers and torch do with FLAVA to FILE; compare two: flava-port drift --from FILE --to FILE",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the observation that ``--observe`` asks for, whichever tests ran; under pytest-xdist once, not in each worker."""
    if (file := session.config.option.observe) and not hasattr(session.config, "workerinput"):
        from .releases.observation import write
        from .releases.observe import observe_installed

        write(observe_installed(), Path(file))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.observe:
        terminalreporter.write_line(f"observation written: {config.option.observe}; compare: flava-port drift --from FILE --to FILE")
