"""The README's table of the three layouts is what the rules do. ``python -m tests.rules.test_readme`` writes it."""

import pytest

from flava_port.rules.layouts import to_hugging_face
from flava_port.rules.tables import TORCHMULTIMODAL
from tests.readme import section, write_section

pytestmark = pytest.mark.peers

SHOWN = (
    *("image_encoder.module.", "text_encoder.module.", "mm_encoder.module.", "mm_encoder.module.encoder.cls_token"),
    "text_encoder.module.embeddings.LayerNorm",
    *(f"image_encoder.module.encoder.layer.N.{part}" for part in ("attention.attention.query", "attention.output.dense")),
    *(
        f"image_encoder.module.encoder.layer.N.{part}"
        for part in ("intermediate.dense", "output.dense", "layernorm_before", "layernorm_after")
    ),
    *("mm_image_projection", "mm_text_projection", "image_projection", "text_projection"),
    *("heads.imagenet.mim_head.cls.predictions.bias", "heads.imagenet.mim_head.cls.predictions.decoder"),
    "heads.imagenet.mim_head.cls.predictions.transform.dense",
    "heads.imagenet.mim_head.cls.predictions.transform.LayerNorm",
    *("heads.fairseq_mlm.cls.predictions.bias", "heads.cmd.mim_head.cls.predictions.bias", "heads.cmd.mlm_head.cls.predictions.bias"),
    *("heads.cmd.itm_head.pooler", "heads.cmd.itm_head.cls", "heads.cmd.clip_head.logit_scale"),
    "text_encoder.embeddings.",
    "blocks.group_1.block_2.res_path.conv_3.w",
)


def table() -> str:
    """The table: one row for each name, one column for each layout."""
    rows = [(name, TORCHMULTIMODAL.rename(name), to_hugging_face(name).target) for name in SHOWN]
    lines = ["| original | torchmultimodal | Hugging Face |", "|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join(f"`{name}`" if name else "(second copy, dropped)" for name in row) + " |" for row in rows])


def test_the_readmes_table_of_layouts_is_what_the_rules_do():
    """Every row is what the rules do, and the rows show every rule of torchmultimodal's table but two that repeat another."""
    assert section("layouts") == table()
    firing = {step.number for name in SHOWN for step in TORCHMULTIMODAL.trace(name).steps}
    missing = set(range(1, len(TORCHMULTIMODAL.rules) + 1)) - firing
    assert {TORCHMULTIMODAL.rules[number - 1].source for number in missing} == {"attention.attention.key", "attention.attention.value"}


if __name__ == "__main__":
    write_section("layouts", table())
