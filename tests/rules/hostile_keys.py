"""Keys made so that every mistake in a rule shows on one of them."""

import random
from collections.abc import Iterator
from itertools import product

from tests.strategies import CODEBOOK_FRAGMENTS, FRAGMENTS, Edit, codebook_keys, edited, original_keys

# The shortest keys on which the order of two rules shows, as `flava-port rules --order` computes them.
OUT_OF_ORDER = (
    "heads.cmd.mim_head.cls.predictionss.cmd.mlm_head.cls.predictions",
    "heads.cmd.itm_head.clss.cmd.mim_head.cls.predictions",
    "heads.cmd.mim_head.cls.predictionss.cmd.itm_head.pooler",
    "heads.cmd.mim_head.cls.predictionss.cmd.clip_head.logit_scale",
    "heads.cmd.mim_head.cls.predictionss.fairseq_mlm.cls.predictions",
    "heads.cmd.heads.imagenet.mim_head.cls.predictions.cls.predictions",
    "heads.cmd.itm_head.clss.cmd.mlm_head.cls.predictions",
    "heads.cmd.mlm_head.cls.predictionss.cmd.itm_head.pooler",
    "heads.cmd.mlm_head.cls.predictionss.cmd.clip_head.logit_scale",
    "heads.cmd.heads.fairseq_mlm.cls.predictions.cls.predictions",
    "heads.cmd.mlm_head.cls.predictionss.imagenet.mim_head.cls.predictions",
    "heads.cmd.heads.cmd.itm_head.cls.pooler",
    "heads.cmd.itm_head.clss.cmd.clip_head.logit_scale",
    "heads.cmd.itm_head.clss.fairseq_mlm.cls.predictions",
    "heads.cmd.itm_head.clss.imagenet.mim_head.cls.predictions",
    "heads.fairseq_mlm.cls.predictionss.cmd.itm_head.pooler",
    "heads.imagenet.mim_head.cls.predictionss.cmd.itm_head.pooler",
    "heads.fairseq_mlm.cls.predictionss.cmd.clip_head.logit_scale",
    "heads.imagenet.mim_head.cls.predictionss.cmd.clip_head.logit_scale",
    "heads.fairseq_mlm.cls.predictionss.imagenet.mim_head.cls.predictions",
)
# Keys on which it shows that a rule ran twice: the renamed key contains the rule's source again.
TWICE = (
    "heads.cmd.mim_head.cls.predictionss.cmd.mim_head.cls.predictions",
    "heads.cmd.mlm_head.cls.predictionss.cmd.mlm_head.cls.predictions",
    "heads.cmd.heads.cmd.itm_head.cls.cls",
    "heads.cmd.heads.cmd.itm_head.pooler",
    "heads.fairseq_mlm.cls.predictionss.fairseq_mlm.cls.predictions",
    "heads.imagenet.heads.imagenet.mim_head.cls.predictions.cls.predictions",
)


def hostile_keys() -> list[str]:
    """The keys above, and fragments alone, doubled, beside each other and in odd places of keys."""
    keys = [*OUT_OF_ORDER, *TWICE]
    keys += [form.format(fragment) for fragment in FRAGMENTS for form in ("{0}", "x{0}", "{0}x", "x.{0}.y", "{0}.{0}", "{0}{0}")]
    keys += [f"{one}.{other}" for one, other in product(FRAGMENTS, repeat=2)]
    return _unique([*keys, *_edits(original_keys((0, 12)), FRAGMENTS, 300)])


def hostile_codebook_keys() -> list[str]:
    """Codebook keys with `.w` and `.b` inside and at the end, with group_1 and group_10, and with fragments in odd places."""
    keys = [
        "group_1.group_1.w",
        "blocks.group_10.block_1.w",
        "group_1",
        "blocks.w.b",
        "blocks.b.w",
        ".w",
        ".b",
        "w",
        "b",
        "x.w.w",
        "x.b.b",
    ]
    keys += [
        "blocks.group_11.res_path.b",
        "res_path.res_path.w",
        "res_path",
        "blocks.group_5.block_1.w",
        "x.weight",
        "x.wx",
        "x.bias.w.bx",
    ]
    keys += [form.format(fragment) for fragment in CODEBOOK_FRAGMENTS for form in ("{0}", "x{0}", "{0}x", "x.{0}.y", "{0}{0}")]
    keys += [one + other for one, other in product(CODEBOOK_FRAGMENTS, repeat=2)]
    return _unique([*keys, *_edits(codebook_keys(), CODEBOOK_FRAGMENTS, 150)])


def _edits(keys: tuple[str, ...], fragments: tuple[str, ...], count: int) -> Iterator[str]:
    dice = random.Random(0)
    for _ in range(count):
        yield edited(dice.randrange(100), dice.choice(list(Edit)), dice.choice(fragments), dice.choice(keys))


def _unique(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(keys))
