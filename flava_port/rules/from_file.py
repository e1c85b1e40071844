"""Reads rule tables from files, and lists the keys that a table is meant for.

A file is JSON: a list of ``[from, to]`` pairs, or an object that has this list as ``rules`` and may have
``name``, ``drops`` (pairs of a fragment and the fragment that is kept in its place) and ``keys``. A rule that
works only at the end of a key is ``[from, to, "at end"]``.
"""

import json
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

from ..errors import InvalidInput
from .engine import Drop, Rule, RuleTable
from .tables import CODEBOOK, FLAVA, TORCHMULTIMODAL

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
    import torch

    from ..original.codebook import DalleEncoder
    from ..original.flava import Flava

    models = {FLAVA: (Flava,), CODEBOOK: (DalleEncoder,), TORCHMULTIMODAL: (Flava, DalleEncoder)}
    if table not in models:
        return own_keys(table)
    with torch.device("meta"):
        return tuple(key for model in models[table] for key in model().state_dict())


def own_keys(table: RuleTable) -> tuple[str, ...]:
    """Keys made of a table's fragments: one for every entry, and one for every two rules that can overlap in a key."""
    keys = [_key_with(rule.source, at_end=rule.at_end) for rule in table.rules]
    keys += [_key_with(fragment) for drop in table.drops for fragment in (drop.fragment, drop.kept)]
    for one, other in permutations(table.rules, 2):
        if not one.at_end:
            keys += [_key_with(merged, at_end=other.at_end) for merged in _chained(one.source, other.source)]
    return tuple(dict.fromkeys(keys))


def _key_with(fragment: str, *, at_end: bool = False) -> str:
    """A key of whole names that contains the fragment: ``res_path.`` becomes ``res_path.weight``."""
    begin = "" if fragment[:1].isalnum() else "x"
    end = "" if at_end else ".weight" if fragment[-1:].isalnum() else "weight"
    return begin + fragment + end


def _chained(one: str, other: str) -> Iterable[str]:
    """The overlaps of two fragments that share names: ``a.b`` and ``b.c`` make ``a.b.c``."""
    names, more = one.split("."), other.split(".")
    for count in range(1, min(len(names), len(more))):
        if names[-count:] == more[:count] and any(more[:count]):
            yield ".".join(names + more[count:])


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
