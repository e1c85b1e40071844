"""Records the keys of torchmultimodal's own models: ``python -m tests.rules.record_layouts``, with the extra `peers`."""

import json
from itertools import chain

import torch

from tests.original.peers import stand_in_for_torchvision
from tests.rules.test_triangle import RECORDED

SMALL = dict(
    image_hidden_size=8, image_num_attention_heads=2, image_num_hidden_layers=2, image_intermediate_size=8, image_size=16, patch_size=8,
    text_hidden_size=8, text_num_attention_heads=2, text_num_hidden_layers=2, text_intermediate_size=8, vocab_size=9, max_position_embeddings=5,
    multimodal_hidden_size=8, multimodal_num_attention_heads=2, multimodal_num_hidden_layers=1, multimodal_intermediate_size=8,
)  # fmt: skip


def main() -> None:
    with stand_in_for_torchvision():
        from torchmultimodal.models.flava.model import DalleVAEEncoder, FLAVAForPreTraining, flava_model
        from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

        with torch.device("meta"):
            model = flava_model(**SMALL)
            whole = FLAVAForPreTraining(model, DalleVAEEncoder(pretrained=False), FLAVAPretrainingLoss(hidden_size=8))
    keys = {"FLAVAForPreTraining": list(whole.state_dict()), "FLAVAModel": list(model.state_dict())}
    origin = "torchmultimodal-nightly 2024.4.1's own state_dict(). Regenerate: python -m tests.rules.record_layouts"
    RECORDED.write_text(json.dumps({"origin": origin, **keys}, indent=0) + "\n")
    print(f"{RECORDED.name}: {len(list(chain(*keys.values())))} keys")


if __name__ == "__main__":
    main()
