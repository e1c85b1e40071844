"""Epochs: the releases of transformers whose FLAVA has one schema, and what sets each epoch apart.

Keys and shapes are those of `shapes` in every epoch. ``releases.json`` lists the releases that were observed, each
with its epoch and with the digest of its sources (`flava_port.target.installed.source_digest`). A release is known by
that digest, and not by its number. `flava-port layout --record` adds to the list. Nothing here imports torch or transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import Version

from ..errors import InvalidInput
from .config import DEFAULTS
from .keys import TIED

RELEASES = Path(__file__).with_name("releases.json")


@dataclass(frozen=True)
class Epoch:
    """Releases with one schema, named after the first that was seen."""

    first: str
    saves_position_ids: bool = False  # `POSITION_IDS` is a persistent buffer, int64
    tied: tuple[tuple[str, str], ...] = TIED  # keys that are one parameter when the model is built
    text_defaults: Mapping[str, object] = field(default_factory=dict)  # fields of the text config that other epochs lack

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases that were seen, oldest first."""
        return tuple(release for release, recorded in recorded_releases().items() if recorded.epoch == self.first)

    @property
    def defaults(self) -> dict[str, Any]:
        """Every field of the config and its default; of the fields that all of transformers' models have, only `tie_word_embeddings`."""
        sections = {name: dict(value) for name, value in DEFAULTS.items() if isinstance(value, dict)}
        for section in sections.values():
            del section["model_type"]
        sections["text_config"] |= self.text_defaults
        return {**DEFAULTS, "initializer_factor": 1.0, **sections}

    def __str__(self) -> str:
        return " to ".join(dict.fromkeys((self.releases[0], self.releases[-1])))


_ABSOLUTE = {"position_embedding_type": "absolute"}

# 4.31.0 stopped saving position_ids. 5.0.0 no longer tied the heads' biases, and 5.1.0 ties them again.
EPOCHS = (
    Epoch("4.25.1", saves_position_ids=True, text_defaults=_ABSOLUTE),
    Epoch("4.31.0", text_defaults=_ABSOLUTE),
    Epoch("5.0.0", tied=()),
    Epoch("5.1.0"),
)


class RecordedRelease(NamedTuple):
    """A release that was observed."""

    epoch: str  # whose schema it has
    sources: str  # the digest of its sources


def epoch_of(release: str) -> Epoch | None:
    """The epoch of a release that was recorded; None for another. Its number says nothing of what is installed under it."""
    recorded = recorded_releases().get(release)
    return next((epoch for epoch in EPOCHS if recorded and epoch.first == recorded.epoch), None)


def release_with(sources: str | None) -> str | None:
    """The newest recorded release that has these sources; None where none has."""
    return next((release for release, recorded in reversed(recorded_releases().items()) if recorded.sources == sources), None)


def read_releases(path: Path) -> dict[str, RecordedRelease]:
    """The releases that a file like ``releases.json`` lists, oldest first.

    Raises:
        InvalidInput: it cannot be read, or is no such file.
    """
    try:
        rows = {release: RecordedRelease(**row) for release, row in json.loads(path.read_bytes()).items()}
        if wrong := [row for row in rows.values() if row.epoch not in [e.first for e in EPOCHS] or not isinstance(row.sources, str)]:
            raise ValueError(wrong[0])
        return {release: rows[release] for release in sorted(rows, key=Version)}
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path}: no list of releases ({type(error).__name__}: {error})") from None


def releases_json(releases: Mapping[str, RecordedRelease]) -> str:
    """The content of such a file, a line for each release, oldest first."""
    lines = [f" {json.dumps(release)}: {json.dumps(releases[release]._asdict())}" for release in sorted(releases, key=Version)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def recorded_releases() -> dict[str, RecordedRelease]:
    """The releases that the package lists, oldest first."""
    return read_releases(RELEASES)
