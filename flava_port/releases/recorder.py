"""`flava-port layout`: which epoch the installed transformers is in, or what it changed; and the list of releases that it adds to."""

from pathlib import Path

from ..errors import InvalidInput, NotFaithful
from ..files.staging import staged_files
from ..target.epochs import RELEASES, Epoch, RecordedRelease, read_releases, recorded_releases, releases_json
from ..target.known import installed_flava, nearest
from ..target.schema import Schema
from ..target.schema_differences import in_short
from ..target.shapes import expected_shapes
from ..text import count_of, few


def schema_report(release: str, observed: Schema) -> tuple[str, int]:
    """Which epoch the schema of a release of transformers is of, or in what it is new; and the exit status, 1 for a new one."""
    epoch, found = nearest(observed)
    if found:
        return _what_is_new(release, epoch, found), 1
    keys, buffers = len(expected_shapes({})) + len(observed.buffers), count_of(len(observed.buffers), "persistent buffer")
    size = f"{count_of(keys, 'key')} at FLAVA's own size, {len(epoch.tied)} tied, {buffers}"
    seen = "" if release in epoch.releases else ", in which it was not yet seen: flava-port layout --record"
    return f"transformers {release}: the schema of epoch {epoch} ({size}){seen}", 0


def _what_is_new(release: str, epoch: Epoch, found: list[str]) -> str:
    first = f"transformers {release} {'; '.join(map(str, few(in_short(found), 3)))}."
    how_far = f"FLAVA's schema is new. It differs from that of {epoch} in {len(found)}:"
    last = "Once you know what this means for conversion, state it in flava_port/target/shapes.py and epochs.py, then record the release: "
    return "\n".join([first, how_far, *(f"  {line}" for line in found), f"{last}flava-port layout --record"])


def record_release(release: str, sources: str, observed: Schema, path: Path | None = None) -> str:
    """Adds a release of transformers, with the digest of its sources, to the list in ``path``, or in the package.

    Returns a line that says so. A list that does not exist is made.

    Raises:
        NotFaithful: its schema is that of no known epoch.
        InvalidInput: ``path`` holds something else, or another digest for this release; or it cannot be written.
    """
    epoch, found = nearest(observed)
    if found:
        raise NotFaithful(f"not recorded: {_what_is_new(release, epoch, found)}")
    path = path or RELEASES
    releases = read_releases(path) if path.exists() else {}
    if release in releases and releases[release].sources != sources:
        raise InvalidInput(f"{path}: has transformers {release} with other sources; the installed ones were changed, or those were")
    with staged_files([path]) as [partial]:
        partial.write_text(releases_json({**releases, release: RecordedRelease(epoch.first, sources)}))
    recorded_releases.cache_clear()
    installed_flava.cache_clear()
    return f"{path}: has transformers {release}, of epoch {epoch}"
