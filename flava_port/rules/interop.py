"""The rules in the forms that transformers itself takes, to load an original checkpoint without converting it.

`key_mapping` is for every release whose `from_pretrained` has that argument, 4.50 and later. Up to 4.57
only the first pattern that matches a key is applied to it; from 5.0 on all are, one after another.
`weight_renamings` is for 5.0 and later.

The model has no place for the second copies of the embeddings and for position_ids. `from_pretrained`
leaves them out and lists the copies (in some releases position_ids too) among the unexpected keys.
Unlike `flava_port.convert`, it does not check their values.

Two things to know. Releases 4.50 to 4.57 look at the names in the file first. If none begins with
``flava.``, they take the file for one of `FlavaModel` and refuse it, so the file needs one more tensor
under such a name: `MARK`. From 5.0 on, a model loaded in this way is saved under the original names again,
unless `save_pretrained` is called with ``save_original_format=False``.
"""

import re
from collections.abc import Iterable

from .engine import Rule, RuleTable
from .tables import CODEBOOK, FLAVA

# transformers 4.50 to 4.57 need one more tensor in the file, of any value, under this name.
MARK = "flava."


def key_mapping(prefix: str = "") -> dict[str, str]:
    """The ``key_mapping`` with which `FlavaForPreTraining.from_pretrained` loads an original checkpoint without its codebook.

    ``prefix`` is what every key of the checkpoint begins with, such as ``model.``.
    """
    return {f"^{re.escape(prefix + rule.source)}": rule.target for rule in FLAVA.rules}


def key_mapping_for(keys: Iterable[str], table: RuleTable = CODEBOOK, *, prefix: str = "", target_prefix: str = "") -> dict[str, str]:
    """A ``key_mapping`` for any table, with one pattern for each key; keys that the table drops are left out."""
    targets = {key: table.rename(key.removeprefix(prefix)) for key in keys}
    return {f"^{re.escape(key)}$": target_prefix + target for key, target in targets.items() if target is not None}


def weight_renamings(table: RuleTable = FLAVA) -> list:
    """The table's rules as transformers' own `WeightRenaming`, in order.

    Raises:
        ImportError: the installed transformers is older than 5.0.
    """
    from transformers.core_model_loading import WeightRenaming

    return [WeightRenaming(*_renaming(rule)) for rule in table.rules]


def _renaming(rule: Rule) -> tuple[str, str]:
    """The pattern and the replacement for a rule.

    For a rule at the end the pattern matches the whole key, because transformers replaces the first occurrence
    of what matched.
    """
    if rule.at_end:
        return rf"^(.+){re.escape(rule.source)}$", rf"\1{rule.target}"
    return re.escape(rule.source), rule.target
