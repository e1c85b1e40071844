"""What transformers' loader makes of a folder is judged for every class that loads from it, whatever the folder says of itself."""

import json
import shutil
from itertools import combinations
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava_port import convert_flava_checkpoint, verify
from flava_port.codebook import convert_dalle_checkpoint
from flava_port.files.shards import INDEX
from flava_port.proof import loading
from flava_port.proof.certificate import Verdict
from flava_port.target.parts import PARTS
from tests.builders import from_pretrained
from tests.proof.faults import CONFIG, FOLDER, VALUES, plant

# What shows in every release in what is loaded: the fault's name, and what the claim says.
SHOWS = {
    "configuration_files leads to another config": "FlavaForPreTraining: config.mlm_weight: 0.5 once it is loaded, where 1.0 belongs",
    "image_config_dict with a dropout": "config.hidden_dropout_prob: 0.1 once it is loaded, where 0.0 belongs",
    "a key missing": "comes from nothing in the folder: it is random, or a default",
    "config: text_config.hidden_act = 'gelu_new'": "FlavaTextModel: config.hidden_act: 'gelu_new' once it is loaded",
    "config: return_loss = False": "FlavaForPreTraining: config.return_loss: False once it is loaded",
}
BY_NAME = {fault.name: fault for fault in (*VALUES, *CONFIG, *FOLDER)}


def claim_about(tiny, folder):
    """The claim alone."""
    with mock.patch.object(verify, "about_the_computation", lambda _: []), mock.patch.object(verify, "ABOUT_THE_PROCESSOR", ()):
        certificate = verify.verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder)
    return next(claim for claim in certificate.claims if claim.name == "as loaded"), certificate


@pytest.mark.parametrize("name", SHOWS)
def test_a_fault_shows_in_what_is_loaded(name, converted, tiny, tmp_path):
    """The finding names the class, and the field or the key."""
    plant(BY_NAME[name], converted, tmp_path / "faulty")
    claim, _ = claim_about(tiny, tmp_path / "faulty")
    assert claim.verdict is Verdict.DIFFERS
    assert any(SHOWS[name] in str(finding) for finding in claim.findings), [str(finding) for finding in claim.findings]


def test_an_alias_shows_where_the_release_follows_it(converted, tiny, tmp_path):
    """`attribute_map` in a section: the epsilon that the modules end up with is another one, or the attribute itself is."""
    plant(BY_NAME["attribute_map in a section"], converted, tmp_path / "faulty")
    claim, _ = claim_about(tiny, tmp_path / "faulty")
    assert claim.verdict is Verdict.DIFFERS
    assert any("text_config.attribute_map" in finding.key for finding in claim.findings)


def test_modules_whose_settings_change_behind_the_config_are_named(converted, tiny, tmp_path):
    """A loader that leaves dropout in the modules, say: the setting, how many modules have it, and where."""
    import transformers

    dropout = transformers.models.flava.modeling_flava.nn.Dropout
    with mock.patch.object(loading, "_is_as", return_value=False):  # a right one is loaded beside it
        clean, _ = claim_about(tiny, converted)  # what a right folder makes is kept
        assert clean.verdict is Verdict.PROVEN
        with mock.patch.object(dropout, "__init__", lambda self, p=0.5, inplace=False: _set(self, p)):
            claim, _ = claim_about(tiny, converted)
    found = [str(finding) for finding in claim.findings]
    assert any("FlavaForPreTraining: p: 0.25, where 0.0 belongs, in " in text for text in found), found


def test_of_a_right_folder_one_twin_is_loaded_in_one_file_or_in_several(converted, tiny, tmp_path):
    """And a second one, of a right conversion, where an index says otherwise."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "shards", max_shard_size="20KB")
    index = tmp_path / "shards" / INDEX
    read = json.loads(index.read_bytes())
    assert len(set(read["weight_map"].values())) > 2
    index.write_text(json.dumps({**read, "metadata": {"total_size": 1, "total_parameters": 1}}))
    assert _twins_of_a_right_one(tiny, tmp_path / "shards") == _twins_of_a_right_one(tiny, converted) == 0
    one, other = next(iter(read["weight_map"])), list(read["weight_map"])[-1]
    for said in ({"metadata": []}, {"weight_map": {**read["weight_map"], one: read["weight_map"][other]}}):
        index.write_text(json.dumps(read | said))
        assert _twins_of_a_right_one(tiny, tmp_path / "shards") > 0, said


@pytest.mark.parametrize("index", ["{", "[]", '{"metadata": {}, "weight_map": []}'])
def test_an_index_that_nothing_reads_stops_no_claim(index, converted, tiny, tmp_path):
    """Beside the one file of weights, which loaders prefer, it may be anything."""
    folder = shutil.copytree(converted, tmp_path / "out")
    (folder / INDEX).write_text(index)
    claim, _ = claim_about(tiny, folder)
    assert claim.verdict is Verdict.PROVEN, claim.summary


def _twins_of_a_right_one(tiny, folder):
    """How many classes are loaded from a right conversion besides."""
    with mock.patch.object(loading, "_loaded_right", wraps=loading._loaded_right) as loaded:
        claim_about(tiny, folder)
    return loaded.call_count


def _set(module, p):
    from torch import nn

    nn.Module.__init__(module)
    module.p, module.inplace = p + 0.25, False


# What is proven of these is proven of the others together.
SLOW = ("image", "multimodal")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in (*PARTS, "codebook")])
def test_every_class_is_proven_from_its_own_folder_and_a_swap_in_it_is_found(name, tiny, tmp_path):
    """Also as transformers saves it again."""
    if name == "codebook":
        convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
        files, model_class = (tiny.codebook, None), "FlavaImageCodebook"
    else:
        convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part=name)
        files, model_class = (tiny.checkpoint, None), PARTS[name].model_class
    from_pretrained(tmp_path / "out", model_class).save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "out", tmp_path / "saved"):
        certificate = verify.verify_flava_checkpoint(*files, folder)
        assert certificate.verdict is Verdict.PROVEN and certificate.not_looked_at, certificate.table()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    one, other = next((a, b) for a, b in combinations(sorted(weights), 2) if weights[a].shape == weights[b].shape and a[-4:] == b[-4:])
    weights[one], weights[other] = weights[other], weights[one]
    save_file(weights, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    certificate = verify.verify_flava_checkpoint(*files, tmp_path / "out", weights_only=True)
    assert certificate.verdict is Verdict.DIFFERS and one in certificate.table(), certificate.table()


def test_a_part_claims_no_heads_that_it_has_not(tiny, tmp_path):
    """No head bias is counted in a folder of a class without heads, and those that a whole folder lacks are named."""
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="text")
    certificate = verify.verify_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", weights_only=True)
    assert "tied weights       FlavaTextModel has none" in certificate.table()


def test_heads_that_a_fine_tuned_folder_lacks_or_adds_are_named(converted, tiny, tmp_path):
    """It is the original no longer, and the report says in which heads."""
    plant(BY_NAME["a key added"], converted, tmp_path / "tuned")
    weights = {key: value for key, value in load_file(tmp_path / "tuned" / "model.safetensors").items() if not key.startswith("mlm_head.")}
    weights["classifier.weight"] = weights["itm_head.seq_relationship.weight"].clone()
    save_file(weights, tmp_path / "tuned" / "model.safetensors", {"format": "pt"})
    certificate = verify.verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "tuned", weights_only=True)
    claims = {claim.name: claim for claim in certificate.claims}
    named = [finding.key for finding in claims["keys"].findings]
    assert "mlm_head.transform.dense.weight" in named and "classifier.weight" in named
    assert claims["tied weights"].summary == "3 head biases; 1 are not in the folder", claims["tied weights"].summary
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["architectures"] == ["FlavaForPreTraining"]


def test_what_a_trainer_leaves_beside_a_model_is_no_rival(converted, tiny, tmp_path):
    """Its arguments, pickled, and the optimizer's state are not weights of any class."""
    folder = shutil.copytree(converted, tmp_path / "trained")
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    torch.save({"state": {}, "param_groups": [{"lr": torch.tensor(0.1)}]}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text("{}")
    claim, certificate = claim_about(tiny, folder)
    assert claim.verdict is Verdict.PROVEN and certificate.verdict is Verdict.PROVEN, certificate.table()


@pytest.mark.parametrize(
    ("name", "change", "equal"),
    [
        ("config.json", lambda text: json.dumps(dict(reversed(json.loads(text).items()))), True),
        ("conversion.json", lambda text: "{}", True),
        ("config.json", lambda text: text.replace('"hidden_dropout_prob": 0.0', '"hidden_dropout_prob": 0'), False),
        ("generation_config.json", lambda text: "{}", False),
    ],
)
def test_files_count_as_equal_only_if_a_loader_finds_the_same_in_them(name, change, equal, tiny, converted, tmp_path):
    """Then the folder's own twin stands for a right one; else a right one is loaded too, and they are compared."""
    folder = shutil.copytree(converted, tmp_path / "out")
    text = (folder / name).read_text() if (folder / name).exists() else ""
    (folder / name).write_text(change(text))
    assert (_twins_of_a_right_one(tiny, folder) > 0) != equal
