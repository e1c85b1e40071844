"""Keys of FlavaForPreTraining that need care: tied biases, position_ids, the scale."""

# A buffer that the model computes by itself and some releases also save: 0, 1, 2, ... along the last axis. A
# parameter until transformers 4.30.2; releases from 4.31.0 on refuse it in a strict load.
POSITION_IDS = "flava.text_model.embeddings.position_ids"

# The masked-prediction heads hold their bias twice, as `bias` and as the `bias` of their decoder.
# They are one tensor; which of the two a release reads from a file differs, so files need both.
HEADS = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")
TIED = tuple((f"{head}.bias", f"{head}.decoder.bias") for head in HEADS)
TIED_KEYS = frozenset(key for pair in TIED for key in pair)


def lost_in(held: str, *, says_tied: bool) -> list[str]:
    """The releases that lose a head's bias of which a file has one key alone, ``bias`` or ``decoder.bias``.

    ``says_tied``: the folder's config has ``tie_word_embeddings``. Measured by `python -m tests.releases.compatibility`:
    the bias is zero there, or never given a value.
    """
    return ["4.43.0 to 4.57.6"] * (held == "decoder.bias") + ["5.0.0"] * (not says_tied)


POSITIONS = "flava.text_model.embeddings.position_embeddings.weight"


LOGIT_SCALE = "flava.logit_scale"


HEAD_NAMES = {*HEADS, "itm_head"}


# Key endings that transformers 5.0.0 to 5.3.0 write for a LayerNorm's weight and bias (seen by saving with them).
_OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def current_name(key: str) -> str:
    """The key as the model has it, whatever the release that saved the file called it."""
    ending = next((ending for ending in _OLD_ENDINGS if key.endswith(ending)), None)
    return key.removesuffix(ending) + _OLD_ENDINGS[ending] if ending else key
