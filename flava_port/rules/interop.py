"""The rules in the forms that transformers itself takes, to load an original checkpoint without converting it.

`key_mapping` works in every release whose `from_pretrained` has that argument (4.50 on): up to
4.57 the first pattern that matches a key is the only one applied to it, from 5.0 on all are, one
after another. `weight_renamings` is for 5.0 and later.

Second copies of the embeddings and position_ids have no place in the model: `from_pretrained`
leaves them out, listing the copies (and in some releases position_ids) among its unexpected keys.
Unlike `flava_port.convert` it does not look whether they are what they should be.

Two things to know. Releases 4.50 to 4.57 look at the file's own names first, take a file without
any that begins with ``flava.`` for one of the bare `FlavaModel`, and refuse it: the file needs one
more tensor under such a name, `MARK`. And from 5.0 on `save_pretrained` of a model that was loaded
so writes the original names again, unless it is told ``save_original_format=False``.
"""

import re
from collections.abc import Iterable

from .engine import Rule, RuleTable
from .tables import CODEBOOK, FLAVA

# The name of a tensor of any value that a file needs beside the original's, for transformers 4.50 to 4.57.
MARK = "flava."


def key_mapping(prefix: str = "") -> dict[str, str]:
    """The ``key_mapping`` for `FlavaForPreTraining.from_pretrained` of an original checkpoint, its codebook apart.

    ``prefix`` is what all the checkpoint's keys begin with, such as ``model.``.
    """
    return {f"^{re.escape(prefix + rule.source)}": rule.target for rule in FLAVA.rules}


def key_mapping_for(keys: Iterable[str], table: RuleTable = CODEBOOK, *, prefix: str = "", target_prefix: str = "") -> dict[str, str]:
    """A ``key_mapping`` with a pattern for each of ``keys``, for any table; keys that the table drops are left out."""
    targets = {key: table.rename(key.removeprefix(prefix)) for key in keys}
    return {f"^{re.escape(key)}$": target_prefix + target for key, target in targets.items() if target is not None}


def weight_renamings(table: RuleTable = FLAVA) -> list:
    """The table as transformers' own `WeightRenaming`, in its order.

    Raises:
        ImportError: the installed transformers is older than 5.0.
    """
    from transformers.core_model_loading import WeightRenaming

    return [WeightRenaming(*_renaming(rule)) for rule in table.rules]


def _renaming(rule: Rule) -> tuple[str, str]:
    """A rule at the end takes in the whole key: transformers replaces the first of what matched, wherever it stands."""
    if rule.at_end:
        return rf"^(.+){re.escape(rule.source)}$", rf"\1{rule.target}"
    return re.escape(rule.source), rule.target
