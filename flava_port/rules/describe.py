"""Puts into words what a table holds, and what the tables do to a key."""

from .engine import RuleTable, Step, Trace
from .layouts import WAYS, Layout, recognise
from .tables import table_for

STEPS_SHOWN = 30


def describe(trace: Trace) -> str:
    """What became of the key, step by step: the rule on one line, the key after it on the next. Of many, the first and the last."""
    steps = [_describe_step(step) for step in trace.steps]
    shown, rest = steps[: STEPS_SHOWN - 1], steps[STEPS_SHOWN - 1 :]
    lines = [trace.source, *shown]
    if len(rest) > 1:
        lines.append(f"  ... and {len(rest) - 1:,} more")
    lines += rest[-1:]
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
    """The whole table: one line for each entry."""
    width = max(len(rule.source) for rule in table.rules)
    lines = [f"{table.name}: {table.source} to {table.target}"]
    lines += [f"  drop  {drop.fragment}.*  because {drop.because}" for drop in table.drops]
    lines += [
        f"  {number:>4}  {rule.source:<{width}}  {rule.target}" + ("  (at the end)" if rule.at_end else "")
        for number, rule in enumerate(table.rules, start=1)
    ]
    lines += [f"  older {rule.source:<{width}}  {rule.target}" for rule in table.older]
    return "\n".join(lines)


def describe_way(key: str) -> str:
    """How the key becomes transformers' name, step by step, from whichever layout it is in."""
    if (layout := recognise([key])) in (Layout.TORCHMULTIMODAL, Layout.TORCHMULTIMODAL_MODEL):
        return describe(WAYS[layout].to(key))
    return describe(table_for(key).trace(key))
