"""The rename rules as data, and the engine that applies them to one key.

A table is an ordered list of string replacements; each one works on the result of the last, so
their order matters. The tables know no tensors and no files.

There are three layouts, and the tables lead from the original's to the other two: to Hugging Face's
(`FLAVA`, and `CODEBOOK` for the codebook's own file) and to torchmultimodal's (`TORCHMULTIMODAL`).
Between those two the way is back to the original's names and on from there (`flava_port.ways`).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby


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
    """One rule that changed the key, by its number in the table, and the key after it.

    ``undone`` where the way leads back from the target; ``table`` where it leads through more than one.
    An older name of the target's has no number: it is 0.
    """

    number: int
    rule: Rule
    key: str
    undone: bool = False
    table: str = ""


@dataclass(frozen=True)
class Trace:
    """A key's way through a table: either ``dropped`` by an entry, or renamed to ``target``."""

    source: str
    steps: tuple[Step, ...]
    target: str | None
    dropped: Drop | None = None

    @property
    def rules(self) -> str:
        """``rule 13``, ``rules 2, 5 and 6``, ``no rule``, or ``torchmultimodal rule 5 undone, then flava rule 10``."""
        legs = [_leg(*leg, list(steps)) for leg, steps in groupby(self.steps, lambda s: (s.table, s.undone))]
        return ", then ".join(legs) or "no rule"


def _leg(table: str, undone: bool, steps: list[Step]) -> str:
    """The rules of one table on a key's way, in words; an older name has no number."""
    *first, last = [str(step.number) for step in steps if step.number] or [""]
    text = f"rules {', '.join(first)} and {last}" if first else f"rule {last}" if last else ""
    if not all(step.number for step in steps):
        text = f"{text} and an older name" if text else "an older name"
    return f"{table} {text}".strip() + (" undone" if undone else "")


@dataclass(frozen=True)
class RuleTable:
    """Ordered rules from one layout to another, and what is dropped on purpose before them.

    ``older`` are names that earlier versions of the target layout had: read on the way back, never written.
    """

    name: str
    source: str
    target: str
    drops: tuple[Drop, ...]
    rules: tuple[Rule, ...]
    older: tuple[Rule, ...] = ()

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

    def back(self, key: str) -> Trace:
        """The way back of a key in the target layout: what `source_of` undoes, step by step."""
        steps = []
        done, rest = "", 0
        for match in self._undo.finditer(key):
            done += key[rest : match.start()] + self._sources[match[0]]
            rest = match.end()
            number, rule = self._numbers[match[0]]
            if rule.source != rule.target:
                steps.append(Step(number, rule, done + key[rest:], undone=True))
        return Trace(key, tuple(steps), done + key[rest:])

    @cached_property
    def _numbers(self) -> dict[str, tuple[int, Rule]]:
        """By target: the rule, with its number; older names' have none."""
        numbered = {rule.target: (number, rule) for number, rule in enumerate(self.rules, start=1)}
        return {rule.target: (0, rule) for rule in self.older} | numbered

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {target: rule.source for target, (_, rule) in self._numbers.items()}

    @cached_property
    def _undo(self) -> re.Pattern:
        rules = [rule for _, rule in self._numbers.values()]
        return re.compile("|".join(map(_whole_names, sorted(rules, key=lambda r: -len(r.target)))))


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

_HEADS_OF_2022 = {
    "mlm_head": "heads.fairseq_mlm",
    "mim_head": "heads.imagenet.mim_head",
    "mmm_mlm_head": "heads.cmd.mlm_head",
    "mmm_mim_head": "heads.cmd.mim_head",
}

# Meta's public implementation, `FLAVAForPreTraining` (torchmultimodal-nightly 2024.4.1: models/flava/model.py,
# models/flava/transformer.py, modules/losses/flava.py). It holds the codebook too, so its table takes the keys
# of both of the original's files.
TORCHMULTIMODAL = RuleTable(
    name="torchmultimodal",
    source="original",
    target="torchmultimodal",
    drops=FLAVA.drops,
    rules=(
        Rule("mm_encoder.module.encoder.cls_token", "model.mm_encoder.cls_token"),
        Rule("mm_encoder.module", "model.mm_encoder"),
        Rule("image_encoder.module", "model.image_encoder"),
        Rule("text_encoder.module", "model.text_encoder"),
        Rule("embeddings.LayerNorm", "embeddings.layer_norm"),
        Rule("attention.attention.query", "attention.query"),
        Rule("attention.attention.key", "attention.key"),
        Rule("attention.attention.value", "attention.value"),
        Rule("attention.output.dense", "attention.output"),
        Rule("intermediate.dense", "feedforward.model.0"),
        Rule("output.dense", "feedforward.model.2"),
        Rule("layernorm_before", "attention_layernorm"),
        Rule("layernorm_after", "feedforward_layernorm"),
        Rule("mm_image_projection", "model.image_to_mm_projection"),
        Rule("mm_text_projection", "model.text_to_mm_projection"),
        Rule("image_projection", "model.image_projection"),
        Rule("text_projection", "model.text_projection"),
        Rule("heads.cmd.mim_head", "loss.mmm_loss.mim"),
        Rule("heads.cmd.mlm_head", "loss.mmm_loss.mlm"),
        Rule("heads.imagenet.mim_head", "loss.mim_loss"),
        Rule("heads.fairseq_mlm", "loss.mlm_loss"),
        Rule("cls.predictions.transform.dense", "cls.dense"),
        Rule("cls.predictions.transform.LayerNorm", "cls.layer_norm"),
        Rule("cls.predictions.decoder", "cls.decoder"),
        Rule("cls.predictions.bias", "cls.bias"),
        Rule("heads.cmd.itm_head", "loss.itm_loss"),
        Rule("heads.cmd.clip_head.logit_scale", "loss.contrastive_loss.logit_scale"),
        Rule("blocks", "image_codebook.encoder.blocks"),
    ),
    # What the public history of facebookresearch/multimodal shows of 2022, by commit. In all of it the layers and
    # the text embeddings still had names close to the original's (modules/layers/transformer.py, flava_text_encoder.py);
    # layernorm_before, layernorm_after, LayerNorm and position_ids are the original's own.
    older=(
        # The first release, whose checkpoint is flava_full_pretrained_encoders_torchmm (commit 6462edf;
        # the way there from the original: examples/flava/tools/convert_weights.py).
        *(Rule(f"attention.attention.{part}", f"attention.attention.{part}") for part in ("query", "key", "value")),
        Rule("intermediate.dense", "intermediate"),
        Rule("output.dense.weight", "output.weight"),
        Rule("output.dense.bias", "output.bias"),
        Rule("image_projection", "loss.contrastive_loss.image_projection"),
        Rule("text_projection", "loss.contrastive_loss.text_projection"),
        # flava_for_pretraining_projection_itm_mp: the heads beside the model instead of in its loss (commit 02d8b00).
        Rule("heads.cmd.itm_head", "itm_head"),
        *(
            Rule(f"{original}.cls.predictions.{part}", f"{head}.{name}")
            for head, original in _HEADS_OF_2022.items()
            for part, name in (
                ("transform.dense", "dense"),
                ("transform.LayerNorm", "layer_norm"),
                ("decoder", "decoder"),
                ("bias", "bias"),
            )
        ),
    ),
)

TABLES = (FLAVA, CODEBOOK, TORCHMULTIMODAL)

# Where FlavaForPreTraining keeps the converted codebook.
CODEBOOK_PREFIX = "image_codebook."

# What a torchmultimodal FLAVAForPreTraining puts before the keys of its FLAVAModel.
MODEL_PREFIX = "model."


def source_name(target: str) -> str:
    """The original's name for a key of `FlavaForPreTraining`, its codebook's included."""
    if target.startswith(CODEBOOK_PREFIX):
        return CODEBOOK.source_of(target.removeprefix(CODEBOOK_PREFIX))
    return FLAVA.source_of(target)


def describe(trace: Trace) -> str:
    """The key's way through the table, a line a step."""
    lines = [trace.source]
    lines += [_describe_step(step) for step in trace.steps]
    if trace.dropped:
        lines.append(f"  dropped: contains {trace.dropped.fragment!r}; {trace.dropped.because}")
        lines.append(f"          kept as {trace.dropped.kept_key(trace.source)}")
    elif not trace.steps:
        lines.append("  no rule touches it")
    return "\n".join(lines)


def _describe_step(step: Step) -> str:
    rule = f"{step.rule.target} -> {step.rule.source}" if step.undone else str(step.rule)
    which = f"rule {step.number:<2}" if step.number else "older  "
    where = f"  ({step.table}{', undone' if step.undone else ''})" if step.table else ""
    return f"  {which} {rule}{where}\n          {step.key}"


def describe_table(table: RuleTable) -> str:
    """The whole table, a line an entry."""
    width = max(len(rule.source) for rule in table.rules)
    lines = [f"{table.name}: {table.source} to {table.target}"]
    lines += [f"  drop  {drop.fragment}.*  because {drop.because}" for drop in table.drops]
    lines += [
        f"  {number:>4}  {rule.source:<{width}}  {rule.target}" + ("  (at the end)" if rule.at_end else "")
        for number, rule in enumerate(table.rules, start=1)
    ]
    lines += [f"  older {rule.source:<{width}}  {rule.target}" for rule in table.older]
    return "\n".join(lines)


def table_for(key: str) -> RuleTable:
    """The table that leads a key of the original on to transformers: the codebook's for ``blocks.*``, FLAVA's for all else."""
    return CODEBOOK if key.startswith("blocks.") else FLAVA
