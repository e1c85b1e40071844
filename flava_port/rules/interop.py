"""The rules in the forms that transformers itself takes, to load an original checkpoint without converting it.

`key_mapping` is an argument of `from_pretrained` from 4.50 on (up to 4.57 the first pattern that matches a key is
applied, from 5.0 on all, in turn); `weight_renamings` is for 5.0 and later. `from_pretrained` leaves out the second copies
of the embeddings and position_ids as unexpected keys; unlike `flava_port.convert`, it does not check their values.

Releases 4.50 to 4.57 take a file for one of `FlavaModel`, and refuse it, if no name in it begins with ``flava.``: it needs
one more tensor under such a name, `MARK`. From 5.0 on, a model loaded in this way is saved under the original names again,
unless `save_pretrained` is called with ``save_original_format=False``.
"""

import re
from collections.abc import Iterable

from .engine import RuleTable
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

    # At the end, the pattern matches the whole key: transformers replaces the first occurrence of what matched.
    return [
        WeightRenaming(rf"^(.+){re.escape(rule.source)}$", rf"\1{rule.target}")
        if rule.at_end
        else WeightRenaming(re.escape(rule.source), rule.target)
        for rule in table.rules
    ]
