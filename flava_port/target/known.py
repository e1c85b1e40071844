"""Whether the FLAVA of the installed transformers is a known one, and the shapes that it expects of a file.

It is told by its sources and never by its number: another FLAVA may be installed under any number, and the same one
under a number that nobody has seen.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from ..errors import InvalidInput, NotFaithful
from ..text import few
from .epochs import EPOCHS, Epoch, recorded_releases, release_with
from .installed import empty_model, import_transformers, quiet, source_digest, version
from .keys import POSITION_IDS
from .parts import CODEBOOK_PART, WHOLE, Part
from .plain import is_plain
from .schema import Schema, known_schema, observe_schema
from .schema_differences import in_short, schema_differences
from .shapes import Shapes, expected_shapes


class InstalledFlava(NamedTuple):
    """What is known of the installed transformers' FLAVA."""

    release: str  # the number of the installed transformers
    same_as: str | None  # the recorded release that has its sources; None where none has
    epoch: Epoch  # the epoch that it is of, or else the nearest
    differences: tuple[str, ...] = ()  # in which its schema is not that epoch's
    other_keys: bool = False  # it has other keys or shapes than that epoch

    @property
    def as_recorded(self) -> bool:
        """Whether its sources are those of the release whose number it has."""
        return self.same_as is not None and self._recorded == recorded_releases()[self.same_as].sources

    @property
    def _recorded(self) -> str | None:
        recorded = recorded_releases().get(self.release)
        return recorded.sources if recorded else None

    @property
    def changes(self) -> str:
        """What it changed of the schema, in short; empty where nothing."""
        return "; ".join(map(str, few(in_short(self.differences), 3)))

    def with_advice(self, changes: str) -> str:
        """One line: what it changed, and what to do."""
        return f"{self} {changes}; stay on {EPOCHS[-1].releases[-1]}, or see `flava-port layout`"

    def describe(self) -> str:
        """One line: whose FLAVA it is, or what it changed and what to do."""
        if self.differences:
            return self.with_advice(self.changes)
        known = self.same_as or f"the epoch {self.epoch}"
        return f"{self} has the FLAVA of {known}" if self._recorded else f"{self} is not recorded yet; its FLAVA is that of {known}"

    def __str__(self) -> str:
        patched = self._recorded is not None and not self.as_recorded
        return f"transformers {self.release}" + (", whose sources are not those that were released," if patched else "")


@cache
def installed_flava() -> InstalledFlava:
    """Told by the digest of the sources; where that is unknown, by the schema, which takes an import of transformers."""
    release, same_as = version("transformers"), release_with(source_digest())
    if same_as is not None:
        return InstalledFlava(release, same_as, next(epoch for epoch in EPOCHS if same_as in epoch.releases))
    try:
        observed = observe_schema()
    except NotFaithful as error:  # "transformers 9.9.0 no longer builds FLAVA"
        return InstalledFlava(release, None, EPOCHS[-1], (str(error).removeprefix(f"transformers {release} "),), True)
    epoch, differences = nearest(observed)
    other_keys = _without_positions(observed.shapes) != _without_positions(known_schema(epoch).shapes)
    return InstalledFlava(release, None, epoch, tuple(differences), other_keys)


NOT_THE_CHECKPOINT = "The installed transformers is the cause, and not the checkpoint"


def doubts_about_the_installed(*, files_are_right: bool) -> str:
    """What to say of the installed transformers beside a folder that is not proven; empty for a recorded FLAVA.

    Where the folder's files are right, other sources are what computes otherwise.
    """
    flava = installed_flava()
    if flava.same_as is None and flava.differences:
        return f"{flava.describe()}. {NOT_THE_CHECKPOINT}"
    if flava.same_as is None and files_are_right:
        drift = f"flava-port drift --from {EPOCHS[-1].releases[-1]} says what it computes otherwise"
        return f"{flava.describe()} in keys and shapes; its sources are none that were recorded. {NOT_THE_CHECKPOINT}: {drift}"
    return ""


def nearest(observed: Schema) -> tuple[Epoch, list[str]]:
    """The known epoch with the fewest differences, the newest of several; and these differences."""
    found = [(epoch, schema_differences(known_schema(epoch), observed)) for epoch in reversed(EPOCHS)]
    return min(found, key=lambda pair: len(pair[1]))


def shapes_for(config: Mapping, part: Part = WHOLE) -> Shapes:
    """The keys and shapes that the installed transformers expects of a part's file; position_ids is left out.

    ``config`` is a whole model's, and keys are those of `FlavaForPreTraining`. transformers is imported only where its
    sources or the config are unknown, since that takes longer than all the rest of a conversion.

    Raises:
        InvalidInput: the installed transformers refuses the config.
        NotFaithful: it has other keys than every known release, so that no checkpoint can be converted for it.
    """
    flava = installed_flava()
    if flava.other_keys:
        raise NotFaithful(f"{flava.describe()}. {NOT_THE_CHECKPOINT}")
    return nearest_shapes_for(config, part)


def nearest_shapes_for(config: Mapping, part: Part = WHOLE) -> Shapes:
    """What `shapes_for` gives; where the installed transformers has other keys than every known release, those of the nearest."""
    epoch = installed_flava().epoch
    known = known_shapes({**config, "init_codebook": True} if part is CODEBOOK_PART else config, epoch)
    return built_shapes(config, part) if known is None else {key: shape for key, shape in known.items() if part.holds(key)}


def known_shapes(config: Mapping, epoch: Epoch) -> Shapes | None:
    """The keys and shapes of an epoch's `FlavaForPreTraining`, position_ids left out; None where it might refuse the config."""
    return expected_shapes(config) if is_plain(config, epoch.defaults) else None


def built_shapes(config: Mapping, part: Part = WHOLE) -> Shapes:
    """What `shapes_for` gives, read from a model of the installed transformers that is built on the meta device.

    Raises:
        InvalidInput: the installed transformers refuses the config.
    """
    with quiet():
        transformers = import_transformers(part)
    try:
        model = empty_model(config, part)
    except Exception as error:
        # Each release has exception types of its own for this; whichever it is, the config is at fault.
        raise InvalidInput(f"transformers {transformers.__version__} refuses this config: {error}") from None
    return _without_positions({part.prefix + key: tuple(value.shape) for key, value in model.state_dict().items()})


def _without_positions(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {key: shape for key, shape in shapes.items() if key != POSITION_IDS}
