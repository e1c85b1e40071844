"""A twin of a folder shows what transformers' own loader makes of it: the config it reads, and where each parameter comes from."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flava_port.proof.twin import Origin, Twin
from flava_port.target.keys import POSITION_IDS, TIED_KEYS
from tests.builders import from_pretrained

WEIGHTS = "model.safetensors"
QUERY = "flava.text_model.encoder.layer.0.attention.attention.query.weight"


@pytest.fixture
def folder(converted, tmp_path):
    """A copy of the clean folder, to edit."""
    return shutil.copytree(converted, tmp_path / "out")


def edit(path, **fields):
    """Sets fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "model_class, prefix",
    [
        ("FlavaForPreTraining", ""),
        ("FlavaModel", "flava."),
        ("FlavaTextModel", "flava.text_model."),
        ("FlavaImageModel", "flava.image_model."),
    ],
)
def test_a_clean_folder_gives_every_parameter_its_own_values(converted, model_class, prefix):
    """Each class takes every key from the file's key of the same name, or a tied bias from the pair's other key."""
    loaded = Twin(converted).loaded_as(model_class)
    assert loaded.keys.keys() == getattr(transformers, model_class).from_pretrained(converted).state_dict().keys()
    for key, origin in loaded.keys.items():
        if prefix + key not in {POSITION_IDS, *TIED_KEYS}:  # position_ids are computed
            assert origin == Origin(WEIGHTS, prefix + key)
        elif key in TIED_KEYS:
            assert origin is not None and origin.key in TIED_KEYS and origin.key.partition(".")[0] == key.partition(".")[0]


def test_the_config_and_the_settings_are_those_of_the_model_that_is_really_loaded(converted):
    """Sizes apart, the twin has what the whole model has: epsilons, probabilities, heads, classes, what is frozen."""
    loaded, model = Twin(converted).loaded_as("FlavaForPreTraining"), from_pretrained(converted)
    assert loaded.config.text_config.vocab_size == model.config.text_config.vocab_size == 60
    modules = dict(model.named_modules())
    assert {name for name in loaded.settings if name in modules} == modules.keys()
    assert all(loaded.settings[name] == type(module).__qualname__ for name, module in modules.items())
    epsilons = {f"{name}.eps": module.eps for name, module in modules.items() if isinstance(module, torch.nn.LayerNorm)}
    assert epsilons and {name: loaded.settings[name] for name in epsilons} == epsilons
    assert loaded.frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_a_key_that_the_file_lacks_comes_from_nowhere(folder):
    """transformers gives it random values, and says so in a warning at most."""
    weights = load_file(folder / WEIGHTS)
    del weights[QUERY]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    assert [
        key for key, origin in Twin(folder).loaded_as("FlavaForPreTraining").keys.items() if origin is None and key != POSITION_IDS
    ] == [QUERY]


def test_a_config_that_leads_to_another_file_shows_what_is_read_there(folder):
    """`configuration_files` makes transformers read another config than config.json."""
    (folder / "config.4.0.0.json").write_bytes((folder / "config.json").read_bytes())
    edit(folder / "config.4.0.0.json", mlm_weight=0.25)
    edit(folder / "config.json", configuration_files=["config.4.0.0.json"])
    loaded = Twin(folder).loaded_as("FlavaForPreTraining")
    assert loaded.config.mlm_weight == loaded.settings["mlm_weight"] == 0.25


def test_an_alias_in_a_section_shows_in_the_modules(folder):
    """`attribute_map` makes a field read as another one, in the releases that follow it."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"attribute_map": {"layer_norm_eps": "initializer_range"}}
    edit(folder / "config.json", text_config=config["text_config"])
    real = from_pretrained(folder).flava.text_model.layernorm.eps
    assert Twin(folder).loaded_as("FlavaForPreTraining").settings["flava.text_model.layernorm.eps"] == real


@pytest.mark.parametrize("ending, winner", [("bin", WEIGHTS), ("safetensors", WEIGHTS)])
def test_of_two_files_of_weights_the_one_that_transformers_reads_is_named(folder, ending, winner):
    """A second file with the same keys is told apart from the first."""
    weights = load_file(folder / WEIGHTS)
    other = folder / f"pytorch_model.{ending}"
    torch.save(weights, other) if ending == "bin" else save_file(weights, other, {"format": "pt"})
    assert Twin(folder).loaded_as("FlavaForPreTraining").keys[QUERY] == Origin(winner, QUERY)


def test_a_pickled_file_alone_is_read(folder):
    """Nothing of the folder's own pickle is executed: the twin's is written anew."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert Twin(folder).loaded_as("FlavaForPreTraining").keys[QUERY] == Origin("pytorch_model.bin", QUERY)


def test_a_dtype_in_the_config_shows_where_the_release_follows_it(folder):
    """transformers 5 loads in the config's dtype; releases before load in float32."""
    edit(folder / "config.json", torch_dtype="bfloat16")
    wanted = str(from_pretrained(folder).state_dict()[QUERY].dtype).removeprefix("torch.")
    loaded = Twin(folder).loaded_as("FlavaForPreTraining")
    assert loaded.dtypes[QUERY] == wanted and loaded.keys[QUERY] == Origin(WEIGHTS, QUERY)


def test_a_large_model_takes_a_second_and_little_memory(tmp_path, converted):
    """The twin's size follows the number of keys, not their sizes: a width of a million is as quick as one of 64."""
    folder = shutil.copytree(converted, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 1 << 20, "intermediate_size": 1 << 22, "vocab_size": 1 << 24}
    edit(folder / "config.json", text_config=config["text_config"])
    assert Twin(folder).loaded_as("FlavaForPreTraining").keys[QUERY] == Origin(WEIGHTS, QUERY)
