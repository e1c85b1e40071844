"""Reads rule tables from files, and lists the keys that a table is meant for.

A file is JSON: a list of ``[from, to]`` pairs, or an object that has this list as ``rules`` and may have
``name``, ``drops`` (pairs of a fragment and the fragment that is kept in its place) and ``keys``. A rule that
works only at the end of a key is ``[from, to, "at end"]``.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..errors import InvalidInput
from .engine import Drop, Rule, RuleTable
from .finder import Finder
from .tables import CODEBOOK, FLAVA, TABLES, TORCHMULTIMODAL

_AT_END = "at end"
_ENTRIES = ("name", "rules", "drops", "keys")


def read_table(path: Path) -> tuple[RuleTable, tuple[str, ...]]:
    """The table in a file, and the keys that the file gives for it, which may be none.

    Raises:
        InvalidInput: the file cannot be read, or its content is no table; the message says which part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON: {error}") from None
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    if isinstance(content, list):
        content = {"rules": content}
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list) or not content["rules"]:
        raise InvalidInput(f"{path}: a table is a list of [from, to] pairs, or an object with such a list as 'rules'")
    if unknown := sorted(set(content) - set(_ENTRIES)):
        raise InvalidInput(f"{path}: a table may have {', '.join(_ENTRIES)}, but not {', '.join(unknown)}")
    rules = tuple(_rule(path, number, entry) for number, entry in enumerate(content["rules"], start=1))
    for name in ("drops", "keys"):
        if not isinstance(content.get(name, []), list):
            raise InvalidInput(f"{path}: {name!r} is not a list")
    drops = tuple(_drop(path, number, entry) for number, entry in enumerate(content.get("drops", []), start=1))
    keys = content.get("keys", [])
    if not all(isinstance(key, str) for key in keys):
        raise InvalidInput(f"{path}: 'keys' holds something that is not a string")
    return RuleTable(str(content.get("name", path.stem)), "source", "target", drops, rules), tuple(keys)


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file that has one key on each line.

    Raises:
        InvalidInput: the file cannot be read or is empty.
    """
    try:
        keys = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8 text'}") from None
    if not keys:
        raise InvalidInput(f"{path}: no keys in it; write one key on each line")
    return keys


def known_keys(table: RuleTable) -> tuple[str, ...]:
    """The keys that a table is meant for: those of a default-size checkpoint for our tables, else `own_keys`."""
    if table not in TABLES:
        return own_keys(table)
    import torch

    from ..original.codebook import DalleEncoder
    from ..original.flava import Flava

    models = {FLAVA: (Flava,), CODEBOOK: (DalleEncoder,), TORCHMULTIMODAL: (Flava, DalleEncoder)}
    with torch.device("meta"):
        return tuple(key for model in models[table] for key in model().state_dict())


OWN_KEYS_MAX = 20_000


def own_keys(table: RuleTable) -> tuple[str, ...]:
    """Keys made of a table's fragments: one for every entry, and one for every two rules that can overlap in a key.

    No more than `OWN_KEYS_MAX` and one, which says that there are more. For each that is dropped there is the copy that is kept.
    """
    return tuple(islice(dict.fromkeys(islice(_own_keys(table), 4 * OWN_KEYS_MAX)), OWN_KEYS_MAX + 1))


def _own_keys(table: RuleTable) -> Iterator[str]:
    drops = Finder([drop.fragment for drop in table.drops])
    for key in _made_of_fragments(table):
        yield key
        if numbers := drops.in_key(key):
            yield table.drops[numbers[0] - 1].kept_key(key)


def _made_of_fragments(table: RuleTable) -> Iterator[str]:
    for drop in table.drops:
        yield from (_key_with(drop.fragment), _key_with(drop.kept))
    for rule in table.rules:
        yield _key_with(rule.source, at_end=rule.at_end)
    by_beginning: dict[tuple[str, ...], list[Rule]] = defaultdict(list)
    for rule in table.rules:
        names = rule.source.split(".")
        for count in range(1, len(names)):
            by_beginning[tuple(names[:count])].append(rule)
    for one in table.rules:
        names = [] if one.at_end else one.source.split(".")
        for count in range(1, len(names)):  # names that they share: a.b and b.c make a.b.c
            shared = tuple(names[-count:])
            for other in by_beginning[shared] if any(shared) else ():
                if other is not one:
                    merged = ".".join(names + other.source.split(".")[count:])
                    yield _key_with(merged, at_end=other.at_end)


def _key_with(fragment: str, *, at_end: bool = False) -> str:
    """A key of whole names that contains the fragment: ``res_path.`` becomes ``res_path.weight``."""
    begin = "" if fragment[:1].isalnum() else "x"
    end = "" if at_end else ".weight" if fragment[-1:].isalnum() else "weight"
    return begin + fragment + end


def _rule(path: Path, number: int, entry: object) -> Rule:
    match entry:
        case [str(source), str(target)] if source:
            return Rule(source, target)
        case [str(source), str(target), str(where)] if source and where == _AT_END:
            return Rule(source, target, at_end=True)
    raise InvalidInput(f'{path}: rule {number} is {json.dumps(entry)}, not ["from", "to"] or ["from", "to", "{_AT_END}"]')


def _drop(path: Path, number: int, entry: object) -> Drop:
    match entry:
        case [str(fragment), str(kept)] if fragment and kept:
            return Drop(fragment, kept, because="the table says so")
    raise InvalidInput(f'{path}: drop {number} is {json.dumps(entry)}, not ["fragment", "the fragment kept in its place"]')
