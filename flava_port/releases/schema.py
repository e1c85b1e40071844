"""Observes what the installed transformers expects of FLAVA, as a layout that holds for every config.

The model is built on the meta device under a config whose sizes all differ, so that a number tells
the field it comes from; then once more for each field that is true or false, set to false: a key
that is gone then depends on it. These builds and one with other sizes prove what was found.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import InvalidInput, NotFaithful
from ..files.staging import staged_files
from ..target.epochs import FOLDER, Epoch, Schema, epoch_text, flat, is_size, known_epochs, nearest, read_epoch, schema_differences, shapes
from ..target.installed import quiet

SECTIONS = {
    "image_config": "FlavaImageConfig",
    "text_config": "FlavaTextConfig",
    "multimodal_config": "FlavaMultimodalConfig",
    "image_codebook_config": "FlavaImageCodebookConfig",
}

# Fields that count modules, with the numbers that their first may have. A codebook group's first block is
# often unlike its others, which then stand for themselves from 2 on.
_FIRST_NUMBERS = {"num_hidden_layers": (0,), "num_blocks_per_group": (1, 2)}


class Built(NamedTuple):
    """What a model on the meta device shows: by key, and by module for the epsilons."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    buffers: list[str]
    ties: list[list[str]]
    epsilons: dict[str, float]


@dataclass(frozen=True)
class SchemaObserved:
    """The installed release and its layout; ``unexplained`` says where the layout is not that of other configs."""

    release: str
    snapshot: Schema
    unexplained: str | None


def observe_schema() -> SchemaObserved:
    """What the installed transformers expects; a second or two."""
    import transformers

    defaults = config_defaults()
    probe, other = _probe(defaults, sizes_from=101, counts_from=2), _probe(defaults, sizes_from=1009, counts_from=3)
    built = _build(probe)
    switched = [(name, config, _build(config)) for name, config in _switched(probe)]
    conditions = {key: name for name, _, without in switched for key in built.shapes if key not in without.shapes}
    snapshot = _generalised(built, probe, conditions, defaults)
    proofs = [(other, _build(other)), *((config, without) for _, config, without in switched)]
    unexplained = next((text for config, model in proofs if (text := _contradiction(snapshot, config, model.shapes))), None)
    return SchemaObserved(transformers.__version__, snapshot, unexplained)


# ------------------------------------------------------------------------------------- reporting


def schema_report(observation: SchemaObserved) -> tuple[str, int]:
    """Which epoch the release is in, or what differs from the nearest; and the exit status, 1 for an unknown layout."""
    release = f"transformers {observation.release}"
    epoch, found = nearest(observation.snapshot)
    if found:
        lines = [f"{release}: FLAVA's layout is new. It differs from that of {epoch} in {len(found)}:"]
        lines += [f"  {line}" for line in found]
        return "\n".join([*lines, "Once you know what this means for conversion, record it: flava-port layout --record"]), 1
    known = epoch.snapshot
    size = f"{len(shapes(known, {}))} keys at FLAVA's own size, {len(known.ties)} tied, {len(known.buffers)} persistent buffers"
    if epoch.covers(observation.release):
        return f"{release}: the layout of epoch {epoch} ({size})", 0
    return f"{release}: the layout of epoch {epoch} ({size}), in which it was not yet seen: flava-port layout --record", 0


def record(observation: SchemaObserved, target: Path | None = None) -> Path:
    """Adds the release to its epoch's file, or writes a new one: ``target``, or in the package.

    Raises:
        InvalidInput: ``target`` holds another layout, or cannot be written.
        NotFaithful: the layout cannot be written as a function of the config.
    """
    if observation.unexplained:
        raise NotFaithful(f"transformers {observation.release}: {observation.unexplained}; teach flava_port/observe.py to say it")
    if target is None:
        epoch, found = nearest(observation.snapshot) if known_epochs() else (None, ["no epoch yet"])
        target = epoch.path if not found else FOLDER / f"{observation.release}.json"
    epoch = read_epoch(target) if target.exists() else Epoch((), observation.snapshot)
    if found := schema_differences(epoch.snapshot, observation.snapshot):
        raise InvalidInput(f"{target}: holds the layout of {epoch}, which is another: {found[0]}; name another file")
    with staged_files([target]) as [path]:
        path.write_text(epoch_text(epoch.with_release(observation.release)))
    known_epochs.cache_clear()
    return target


# ------------------------------------------------------------------------------------- defaults


def config_defaults() -> dict:
    """FLAVA's own fields and their defaults, sub-configs by the name that holds them; what every model has is left out."""
    import transformers

    with quiet():
        top = transformers.FlavaConfig()
        return {
            **_own_fields(top),
            "tie_word_embeddings": getattr(top, "tie_word_embeddings", True),
            **{name: _own_fields(getattr(transformers, kind)()) for name, kind in SECTIONS.items()},
        }


def _own_fields(config) -> dict:
    from transformers import PretrainedConfig

    common = PretrainedConfig().to_dict()
    fields = {name: value for name, value in config.to_dict().items() if name not in common or common[name] != value}
    drop = {"transformers_version", "model_type", *SECTIONS}
    return {name: value for name, value in fields.items() if name not in drop and not name.startswith("_")}


# ---------------------------------------------------------------------------------------- builds


def _probe(defaults: Mapping, sizes_from: int, counts_from: int) -> dict:
    """A config with another prime for every size, other small numbers for counts, and every switch on."""
    primes, counts, epsilons = _primes(sizes_from), count(counts_from), count(1)

    def value(name: str, default):
        if isinstance(default, bool):
            return True
        if isinstance(default, int) and name == "num_attention_heads":
            return 1
        if isinstance(default, int) and name in _FIRST_NUMBERS:
            return next(counts)
        if isinstance(default, int) and is_size(name):
            return next(primes)
        return next(epsilons) / sizes_from if name.endswith("_eps") else default

    config = {
        name: {field: value(field, default) for field, default in fields.items()} if isinstance(fields, Mapping) else value(name, fields)
        for name, fields in defaults.items()
    }
    image = config["image_config"]
    image["patch_size"] = [next(primes), next(primes)]
    image["image_size"] = [side * times for side, times in zip(image["patch_size"], (17, 19))]
    return config


def _primes(first: int) -> Iterator[int]:
    return (n for n in range(first, 10 * first) if all(n % d for d in range(2, int(n**0.5) + 1)))


def _switched(probe: Mapping) -> Iterator[tuple[str, dict]]:
    """The probe with one switch off, for every one of them: its name, and the config."""
    for name, value in flat(probe).items():
        if value is True and name != "tie_word_embeddings":
            config = deepcopy(dict(probe))
            *section, field = name.split(".")
            (config[section[0]] if section else config)[field] = False
            yield name, config


def _build(config: Mapping) -> Built:
    import transformers

    try:
        with quiet():
            model_class = transformers.FlavaForPreTraining  # imported here: under the meta device, some releases do not import
            own = transformers.FlavaConfig.from_dict(deepcopy(dict(config)))
            with torch.device("meta"):
                model = model_class(own)
    except Exception as error:  # whatever a release that changed FLAVA raises
        raise NotFaithful(f"transformers {transformers.__version__} no longer builds FLAVA: {type(error).__name__}: {error}") from None
    state_dict = model.state_dict()
    same: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        same[id(parameter)].append(name)
    return Built(
        {key: tuple(value.shape) for key, value in state_dict.items()},
        {key: str(value.dtype).removeprefix("torch.") for key, value in state_dict.items()},
        [name for name, _ in model.named_buffers() if name in state_dict],
        [names for names in same.values() if len(names) > 1],
        {name: module.eps for name, module in model.named_modules() if isinstance(getattr(module, "eps", None), float)},
    )


# ------------------------------------------------------------------- from one config to every one


def _generalised(built: Built, probe: Mapping, conditions: Mapping[str, str], defaults: Mapping) -> Schema:
    """Numbers as expressions over the config, and numbered modules as one."""
    names, counts = _expressions(probe), _counts(probe)
    shapes = {key: ", ".join(names.get(side, str(side)) for side in shape) for key, shape in built.shapes.items()}
    shapes = {key: f"{shape} if {conditions[key]}" if key in conditions else shape for key, shape in shapes.items()}
    epsilon_names = {value: name for name, value in flat(probe).items() if name.endswith("_eps")}
    epsilons = {name: epsilon_names.get(value, str(value)) for name, value in built.epsilons.items()}
    template = _templates({key: (shapes[key], built.dtypes[key]) for key in shapes}, counts)
    return Schema(
        shapes={template[key]: shape for key, shape in shapes.items()},
        dtypes={template[key]: dtype for key, dtype in built.dtypes.items() if dtype != "float32"},
        buffers=list(dict.fromkeys(template[key] for key in built.buffers)),
        ties=sorted(" = ".join(sorted(template[key] for key in tie)) for tie in built.ties),
        epsilons={template: epsilons[name] for name, template in _templates(epsilons, counts).items()},
        defaults=dict(defaults),
    )


def _expressions(probe: Mapping) -> dict[int, str]:
    """What a dimension of the probe's model can come from; the codebook doubles and quarters its width."""
    sizes = {name: value for name, value in flat(probe).items() if type(value) is int and value > 100}
    found = {}
    for form, of in (
        ("{}", lambda n: n), ("2 * {}", lambda n: 2 * n), ("4 * {}", lambda n: 4 * n), ("8 * {}", lambda n: 8 * n),
        ("{} // 4", lambda n: n // 4), ("2 * {} // 4", lambda n: 2 * n // 4),
    ):  # fmt: skip
        for name, value in sizes.items():
            found.setdefault(of(value), form.format(name))
    image, patch = probe["image_config"]["image_size"], probe["image_config"]["patch_size"]
    found.update({side: f"image_config.patch_size[{axis}]" for axis, side in enumerate(patch)})
    rows, columns = (f"image_config.image_size[{axis}] // image_config.patch_size[{axis}]" for axis in (0, 1))
    found[1 + image[0] // patch[0] * (image[1] // patch[1])] = f"1 + {rows} * ({columns})"
    return found


def _counts(probe: Mapping) -> dict[range, str]:
    """Numbers that modules may have, as ranges, and how these are written."""
    return {
        range(start, value + (start > 0)): f"{start}, {name}{' + 1' if start else ''}"
        for name, value in flat(probe).items()
        for start in _FIRST_NUMBERS.get(name.rpartition(".")[2], ())
    }


def _templates(values: Mapping[str, Hashable], counts: Mapping[range, str]) -> dict[str, str]:
    """For each name the template that stands for it and its numbered likes of the same value, itself where it has none."""
    likes = defaultdict(list)
    for name, value in values.items():
        for number in re.finditer(r"(?<=[._])\d+(?=\.|$)", name):
            likes[name[: number.start()], name[number.end() :], value].append(int(number[0]))
    found = {name: name for name in values}
    for (before, after, _), numbers in likes.items():
        written = next((text for span, text in counts.items() if list(span) == sorted(numbers)), None)
        if written:
            found.update({f"{before}{number}{after}": f"{before}{{{written}}}{after}" for number in numbers})
    return found


def _contradiction(snapshot: Schema, config: Mapping, actual: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first key at which the layout says something else of a config than its model."""
    expected = shapes(snapshot, config)
    for key in dict.fromkeys((*actual, *expected)):
        if actual.get(key) != expected.get(key):
            return f"no expression was found for {key}, {_said(actual, key)} where {_said(expected, key)} was worked out"
    return None


def _said(shapes: Mapping[str, tuple[int, ...]], key: str) -> str:
    return str(list(shapes[key])) if key in shapes else "absent"
