"""Keys of `FlavaForPreTraining` that need care: the heads' tied biases, the positions, the logit scale."""

POSITIONS = "flava.text_model.embeddings.position_embeddings.weight"
LOGIT_SCALE = "flava.logit_scale"

# A buffer of 0, 1, 2, ... along the last axis, which the model computes by itself. transformers up to 4.30.2 asks for
# it in a strict load; from 4.31.0 on it is an unexpected key there.
POSITION_IDS = "flava.text_model.embeddings.position_ids"

# Each masked-prediction head has two keys for one bias: its own `bias` and the `bias` of its decoder. Releases differ in
# which of the two they read from a file, so a file needs both.
HEADS = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")
HEAD_NAMES = {*HEADS, "itm_head"}
TIED = tuple((f"{head}.bias", f"{head}.decoder.bias") for head in HEADS)
TIED_KEYS = frozenset(key for pair in TIED for key in pair)
_DECODERS = dict(TIED)


def tied(key: str) -> str:
    """The decoder's key for a head's bias, whichever of its two keys is given; any other key as it is."""
    return _DECODERS.get(key, key)


def is_key_of_flava(key: str) -> bool:
    """Whether it stands where `FlavaForPreTraining` has keys: in the model, a head or the codebook."""
    return key.partition(".")[0] in {"flava", "image_codebook", *HEAD_NAMES}


def lost_in(held: str, *, says_tied: bool) -> list[str]:
    """The releases that lose a head's bias when a file holds it under one key only.

    ``held`` is that key's end, ``bias`` or ``decoder.bias``; ``says_tied``, whether the folder's config has
    ``tie_word_embeddings``. In these releases the bias is zero after loading, or has no value at all, as
    `python -m tests.releases.compatibility` measures.
    """
    return ["4.43.0 to 4.57.6"] * (held == "decoder.bias") + ["5.0.0"] * (not says_tied)


# Key endings that transformers 5.0.0 to 5.3.0 write for a LayerNorm's weight and bias (seen by saving with them).
_OLD_ENDINGS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def current_name(key: str) -> str:
    """The key as the model has it, whatever the release that saved the file called it."""
    ending = next((ending for ending in _OLD_ENDINGS if key.endswith(ending)), None)
    return key.removesuffix(ending) + _OLD_ENDINGS[ending] if ending else key
