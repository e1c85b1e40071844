"""The rules in transformers' own forms do what our tables do, and load an original checkpoint as it is."""

import re

import pytest
import torch

from flava_port.rules.interop import MARK, key_mapping, key_mapping_for, weight_renamings
from flava_port.rules.tables import CODEBOOK, CODEBOOK_PREFIX, FLAVA
from tests.builders import tiny_codebook, tiny_state_dict
from tests.rules.reports import assert_all
from tests.strategies import codebook_keys, every_original_key

transformers = pytest.importorskip("transformers")
MAJOR, MINOR = map(int, transformers.__version__.split(".")[:2])
needs_renamings = pytest.mark.skipif(MAJOR < 5, reason="WeightRenaming came with transformers 5.0; run under it")
needs_key_mapping = pytest.mark.skipif((MAJOR, MINOR) < (4, 50), reason="key_mapping came with transformers 4.50; run under it")


def first_match(key: str, mapping: dict[str, str]) -> str:
    """How transformers 4.50 to 4.57 apply a key_mapping: only the first pattern that matches counts."""
    for pattern, replacement in mapping.items():
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def in_turn(key: str, mapping: dict[str, str]) -> str:
    """How transformers 5 applies a key_mapping: every pattern, each on the result of the one before."""
    for pattern, replacement in mapping.items():
        key = re.sub(pattern, replacement, key)
    return key


def kept(key: str) -> bool:
    return FLAVA.rename(key) is not None


@pytest.mark.parametrize("apply", (first_match, in_turn), ids=lambda function: function.__name__)
def test_key_mapping_does_what_the_table_does_on_the_whole_grammar(apply):
    """However transformers applies the patterns, keys are renamed as by the table; keys that it drops keep names that no model has."""
    mapping = key_mapping()
    keys = every_original_key()
    assert_all(FLAVA, filter(kept, keys), "the same by key_mapping", lambda key: apply(key, mapping) == FLAVA.rename(key))
    assert all(apply(key, mapping) == key for key in keys if not kept(key))


@pytest.mark.slow
@pytest.mark.parametrize("apply", (first_match, in_turn), ids=lambda function: function.__name__)
def test_key_mapping_takes_a_common_prefix(apply):
    """With ``model.`` before every key, the patterns still rename as the table does."""
    mapping = key_mapping("model.")
    keys = [key for key in every_original_key() if kept(key)]
    assert_all(FLAVA, keys, "the same under a prefix", lambda key: apply(f"model.{key}", mapping) == FLAVA.rename(key))


@pytest.mark.parametrize("apply", (first_match, in_turn), ids=lambda function: function.__name__)
def test_key_mapping_for_does_what_the_codebooks_table_does(apply):
    """One pattern for each key of the codebook renames it as the table does, under the model's prefix."""
    mapping = key_mapping_for(codebook_keys(), target_prefix=CODEBOOK_PREFIX)
    expected = {key: CODEBOOK_PREFIX + CODEBOOK.rename(key) for key in codebook_keys()}
    assert_all(CODEBOOK, expected, "the same by key_mapping_for", lambda key: apply(key, mapping) == expected[key])


def by_renamings(key: str, renamings: list) -> str:
    from transformers.core_model_loading import rename_source_key

    return rename_source_key(key, renamings, [])[0]


@needs_renamings
def test_transformers_applies_key_mapping_as_we_do():
    """transformers' own code renames the whole grammar by our key_mapping as the table does."""
    from transformers.core_model_loading import WeightRenaming

    renamings = [WeightRenaming(pattern, target) for pattern, target in key_mapping().items()]
    keys = [key for key in every_original_key() if kept(key)]
    assert_all(FLAVA, keys, "the same by transformers", lambda key: by_renamings(key, renamings) == FLAVA.rename(key))


@needs_renamings
@pytest.mark.parametrize(("table", "keys"), ((FLAVA, every_original_key), (CODEBOOK, codebook_keys)), ids=("flava", "codebook"))
def test_weight_renamings_do_what_the_table_does_on_the_whole_grammar(table, keys):
    """transformers' own code renames the whole grammar by our WeightRenamings as the table does."""
    renamings = weight_renamings(table)
    keys = [key for key in keys() if table.rename(key) is not None]
    assert_all(table, keys, "the same by WeightRenaming", lambda key: by_renamings(key, renamings) == table.rename(key))


@pytest.fixture(scope="module")
def original_folder(tiny, tmp_path_factory):
    """A folder with a config.json, and an original checkpoint and its codebook in one file, no key of it renamed."""
    from safetensors.torch import save_file

    from flava_port.convert import convert_flava_checkpoint

    converted = tmp_path_factory.mktemp("converted") / "folder"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted)
    folder = tmp_path_factory.mktemp("original")
    (folder / "config.json").write_bytes((converted / "config.json").read_bytes())
    tensors = {key: value.clone() for key, value in {**tiny_state_dict(), **tiny_codebook()}.items()}
    tensors |= {MARK: torch.ones(1)} if MAJOR < 5 else {}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@needs_key_mapping
def test_from_pretrained_loads_an_original_checkpoint_straight(original_folder):
    """Every value is the original's, and only second copies and position_ids are listed as unexpected."""
    mapping = key_mapping() | key_mapping_for(tiny_codebook(), target_prefix=CODEBOOK_PREFIX)
    model, info = transformers.FlavaForPreTraining.from_pretrained(original_folder, key_mapping=mapping, output_loading_info=True)
    loaded = model.state_dict()
    expected = {FLAVA.rename(key): value for key, value in tiny_state_dict().items() if kept(key)}
    expected |= {CODEBOOK_PREFIX + CODEBOOK.rename(key): value for key, value in tiny_codebook().items()}
    unplaced = {key for key in expected if key.endswith("position_ids")}
    assert expected.keys() - unplaced == loaded.keys()
    wrong = [key for key in loaded if not torch.equal(loaded[key], expected[key])]
    assert not wrong, f"{wrong[0]}: not the original's value"
    assert not info["missing_keys"] and not info["mismatched_keys"]
    unexpected = {key for key in info["unexpected_keys"] if key != MARK and not key.endswith("position_ids")}
    assert unexpected == {key for key in tiny_state_dict() if not kept(key) and not key.endswith("position_ids")}


@needs_renamings
def test_a_model_loaded_so_saves_under_its_new_names_when_told_to(original_folder, tmp_path):
    """With ``save_original_format=False`` the saved folder loads like any other, with the same values."""
    mapping = key_mapping() | key_mapping_for(tiny_codebook(), target_prefix=CODEBOOK_PREFIX)
    model = transformers.FlavaForPreTraining.from_pretrained(original_folder, key_mapping=mapping)
    model.save_pretrained(tmp_path / "saved", save_original_format=False)
    again = transformers.FlavaForPreTraining.from_pretrained(tmp_path / "saved").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(again[key], value), key
