"""The rename rules as data, and the engine that applies them to one key.

A table is an ordered list of string replacements; each one works on the result of the last, so
their order matters. The tables know no tensors and no files.
"""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Rule:
    """Replaces ``source`` by ``target``: wherever it stands in the key, or only at its end."""

    source: str
    target: str
    at_end: bool = False

    def apply(self, key: str) -> str:
        if self.at_end:
            return key.removesuffix(self.source) + self.target if key.endswith(self.source) else key
        return key.replace(self.source, self.target)

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (" (at the end)" if self.at_end else "")


@dataclass(frozen=True)
class Drop:
    """Keys that contain ``fragment`` are left out; ``kept`` in its place names the copy that stays."""

    fragment: str
    kept: str
    because: str

    def kept_key(self, key: str) -> str:
        return key.replace(self.fragment, self.kept)


@dataclass(frozen=True)
class Step:
    """One rule that changed the key, by its number in the table, and the key after it."""

    number: int
    rule: Rule
    key: str


@dataclass(frozen=True)
class Trace:
    """A key's way through a table: either ``dropped`` by an entry, or renamed to ``target``."""

    source: str
    steps: tuple[Step, ...]
    target: str | None
    dropped: Drop | None = None

    @property
    def rules(self) -> str:
        """``rule 13``, ``rules 2, 5 and 6``, or ``no rule``."""
        numbers = [str(step.number) for step in self.steps]
        if not numbers:
            return "no rule"
        *first, last = numbers
        return f"rules {', '.join(first)} and {last}" if first else f"rule {last}"


@dataclass(frozen=True)
class RuleTable:
    """Ordered rules from one layout to another, and what is dropped on purpose before them."""

    name: str
    source: str
    target: str
    drops: tuple[Drop, ...]
    rules: tuple[Rule, ...]

    def trace(self, key: str) -> Trace:
        """Every rule that changes ``key``, in order, and where it ends."""
        for drop in self.drops:
            if drop.fragment in key:
                return Trace(key, (), None, drop)
        steps = []
        renamed = key
        for number, rule in enumerate(self.rules, start=1):
            after = rule.apply(renamed)
            if after != renamed:
                steps.append(Step(number, rule, after))
                renamed = after
        return Trace(key, tuple(steps), renamed)

    def rename(self, key: str) -> str | None:
        """The key in the target layout, or None where it is dropped on purpose."""
        return self.trace(key).target

    def source_of(self, key: str) -> str:
        """The key in the source layout whose name in the target layout is ``key``.

        All rules are undone in one pass from left to right, the longest target first, because one
        rule's target may begin with another's (``itm_head`` and ``itm_head.pooler``).
        """
        return self._undo.sub(lambda match: self._sources[match[0]], key)

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {rule.target: rule.source for rule in self.rules}

    @cached_property
    def _undo(self) -> re.Pattern:
        return re.compile("|".join(map(_whole_names, sorted(self.rules, key=lambda r: -len(r.target)))))


def _whole_names(rule: Rule) -> str:
    """A pattern for the rule's target between dots, so that ``mlm_head`` is not seen in ``xmlm_head``."""
    begin = "" if rule.target.startswith(".") else r"(?<![^.])"
    end = r"\Z" if rule.at_end else "" if rule.target.endswith(".") else r"(?![^.])"
    return begin + re.escape(rule.target) + end


_SECOND_COPY = "the checkpoint holds the embeddings twice; the copy under the encoder's module is kept"

# The upstream converter's replacements (transformers 4.20.0 to 4.47.1,
# convert_flava_original_pytorch_to_hf.py), in its order.
FLAVA = RuleTable(
    name="flava",
    source="original",
    target="Hugging Face",
    drops=(
        Drop("text_encoder.embeddings", kept="text_encoder.module.embeddings", because=_SECOND_COPY),
        Drop("image_encoder.embeddings", kept="image_encoder.module.embeddings", because=_SECOND_COPY),
    ),
    rules=(
        Rule("heads.cmd.mim_head.cls.predictions", "mmm_image_head"),
        Rule("heads.cmd.mlm_head.cls.predictions", "mmm_text_head"),
        Rule("heads.cmd.itm_head.cls", "itm_head"),
        Rule("heads.cmd.itm_head.pooler", "itm_head.pooler"),
        Rule("heads.cmd.clip_head.logit_scale", "flava.logit_scale"),
        Rule("heads.fairseq_mlm.cls.predictions", "mlm_head"),
        Rule("heads.imagenet.mim_head.cls.predictions", "mim_head"),
        Rule("mm_text_projection", "flava.text_to_mm_projection"),
        Rule("mm_image_projection", "flava.image_to_mm_projection"),
        Rule("image_encoder.module", "flava.image_model"),
        Rule("text_encoder.module", "flava.text_model"),
        Rule("mm_encoder.module.encoder.cls_token", "flava.multimodal_model.cls_token"),
        Rule("mm_encoder.module", "flava.multimodal_model"),
        Rule("text_projection", "flava.text_projection"),
        Rule("image_projection", "flava.image_projection"),
    ),
)

# OpenAI's DALL-E encoder to FlavaImageCodebook (transformers 4.20.0 to 4.47.1,
# convert_dalle_to_flava_codebook.py).
CODEBOOK = RuleTable(
    name="codebook",
    source="DALL-E",
    target="Hugging Face",
    drops=(),
    rules=(
        Rule("group_1.", "group_1.group."),
        Rule("group_2.", "group_2.group."),
        Rule("group_3.", "group_3.group."),
        Rule("group_4.", "group_4.group."),
        Rule("res_path.", "res_path.path."),
        Rule(".w", ".weight", at_end=True),
        Rule(".b", ".bias", at_end=True),
    ),
)

TABLES = (FLAVA, CODEBOOK)

# Where FlavaForPreTraining keeps the converted codebook.
CODEBOOK_PREFIX = "image_codebook."


def source_name(target: str) -> str:
    """The original's name for a key of `FlavaForPreTraining`, its codebook's included."""
    if target.startswith(CODEBOOK_PREFIX):
        return CODEBOOK.source_of(target.removeprefix(CODEBOOK_PREFIX))
    return FLAVA.source_of(target)


def describe(trace: Trace) -> str:
    """The key's way through the table, a line a step."""
    lines = [trace.source]
    lines += [f"  rule {step.number:<2} {step.rule}\n          {step.key}" for step in trace.steps]
    if trace.dropped:
        lines.append(f"  dropped: contains {trace.dropped.fragment!r}; {trace.dropped.because}")
        lines.append(f"          kept as {trace.dropped.kept_key(trace.source)}")
    elif not trace.steps:
        lines.append("  no rule touches it")
    return "\n".join(lines)


def describe_table(table: RuleTable) -> str:
    """The whole table, a line an entry."""
    width = max(len(rule.source) for rule in table.rules)
    lines = [f"{table.name}: {table.source} to {table.target}"]
    lines += [f"  drop  {drop.fragment}.*  because {drop.because}" for drop in table.drops]
    lines += [
        f"  {number:>4}  {rule.source:<{width}}  {rule.target}" + ("  (at the end)" if rule.at_end else "")
        for number, rule in enumerate(table.rules, start=1)
    ]
    return "\n".join(lines)


def table_for(key: str) -> RuleTable:
    """The table that a key is meant for: the codebook's for ``blocks.*``, FLAVA's for all else."""
    return CODEBOOK if key.startswith("blocks.") else FLAVA
