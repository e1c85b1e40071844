"""Every key under its names in the three layouts, with the rules that rename it and what a proof found about it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..proof.certificate import Certificate, Finding
from ..rules.layouts import Layout, recognise, to_hugging_face, to_torchmultimodal
from ..rules.tables import source_name
from ..target.keys import is_key_of_flava

_PARAMETER = re.compile(r"\.(weight|bias)\Z")


@dataclass(frozen=True)
class Names:
    """A key, or a module, in the layouts: the original's, torchmultimodal's, transformers'; and the rules in words."""

    original: str
    torchmultimodal: str
    transformers: str
    rules: str


def names_of(converted: str) -> Names:
    """The names of a converted key; of one that is none of FLAVA's, that name alone."""
    if not is_key_of_flava(converted):
        return Names("", "", converted, "")
    original = source_name(converted)
    return Names(original, to_torchmultimodal(converted) or "", converted, to_hugging_face(original).rules)


def names_of_module(converted: str) -> Names:
    """The names of a module that owns weights, or of a parameter that belongs to no such module."""
    if (names := names_of(f"{converted}.weight")).original.endswith(".w"):  # the codebook's convolutions
        return Names(names.original[:-2], names.torchmultimodal[:-2], converted, names.rules)
    if recognise([converted]) is not Layout.HUGGING_FACE or _is_parameter(converted):
        return names_of(converted)
    return Names(_PARAMETER.sub("", names.original), _PARAMETER.sub("", names.torchmultimodal), converted, names.rules)


def module_of(key: str) -> str:
    """The module that a converted key belongs to; the key itself where it is a parameter by itself, such as a class token."""
    return key if _is_parameter(key) else _PARAMETER.sub("", key)


def _is_parameter(name: str) -> bool:
    """Whether it is a parameter that is no weight or bias, or a head's own bias, which belongs to no module below it."""
    return bool(
        re.fullmatch(r"\w+_head\.bias|(.*\.)?(cls_token|mask_token|logit_scale|image_model\.embeddings\.position_embeddings)", name)
    )


@dataclass(frozen=True)
class Row:
    """A row of the map of keys."""

    names: Names
    in_file: str  # its name in the checkpoint's file
    module: str
    state: str  # equal, wrong, dropped, or unknown where values were not compared
    note: str = ""


def rows(certificate: Certificate) -> Iterator[Row]:
    """Every key of the checkpoint in the order of its files, then the keys that only the folder has."""
    wrong = {finding.key: finding.what for finding in findings_about_keys(certificate)}
    seen = set()
    for key in certificate.keys:
        seen.add(key.converted)
        if key.dropped:
            yield Row(Names(key.source, "", "", ""), key.source, "", "dropped", key.dropped)
        else:
            state = "wrong" if key.converted in wrong else "equal" if key.converted in certificate.digests else "unknown"
            yield Row(names_of(key.converted), key.source, module_of(key.converted), state, wrong.get(key.converted, ""))
    for name, what in wrong.items():
        if name not in seen:
            yield Row(names_of(name), "", module_of(name), "wrong", what)


def findings_about_keys(certificate: Certificate) -> Iterator[Finding]:
    """The findings that are about a key of the folder, and not about an output or a field of the config; first ones first."""
    seen = set()
    for claim in certificate.claims:
        for finding in claim.findings if not claim.measured else ():
            if is_key_of_flava(finding.key) and finding.key not in seen:
                seen.add(finding.key)
                yield finding
