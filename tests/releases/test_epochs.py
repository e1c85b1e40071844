"""The layouts that are known: the installed transformers has one of them, and they say what its models have."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import transformers
from hypothesis import given, settings

from flava_port.errors import InvalidInput
from flava_port.releases import schema
from flava_port.releases.schema import SchemaObserved, record, schema_report
from flava_port.target import epochs
from flava_port.target.config import DEFAULTS, normal_form
from flava_port.target.epochs import Epoch, known_shapes
from flava_port.target.installed import built_schema
from flava_port.target.keys import POSITION_IDS
from flava_port.target.parts import CODEBOOK_PART, PARTS
from tests.strategies import hugging_face_codebook_configs, hugging_face_configs

RELEASE = transformers.__version__
KNOWN_RELEASE = epochs.epoch_of(RELEASE).releases[-1]


def test_the_installed_transformers_is_in_a_known_epoch(observed_schema):
    """Where it is not, this shows the difference and the command that records it."""
    text, status = schema_report(observed_schema)
    assert status == 0, text
    assert observed_schema.unexplained is None


def test_epochs_differ_and_do_not_overlap():
    """No layout is recorded twice, and no release belongs to two."""
    known = epochs.known_epochs()
    for older, newer in zip(known, known[1:]):
        assert epochs.schema_differences(older.snapshot, newer.snapshot)
        assert not any(older.covers(release) for release in newer.releases)
        assert not any(newer.covers(release) for release in older.releases)


def test_what_set_the_epochs_apart_is_told():
    """position_ids left at 4.31.0; the heads' ties left at 5.0.0 and came back at 5.1.0."""
    lines = {release: epochs.epoch_of(release).snapshot for release in ("4.30.2", "4.31.0", "5.0.0", "5.1.0")}
    ties = [f"{head}.bias = {head}.decoder.bias" for head in ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")]
    assert epochs.schema_differences(lines["4.30.2"], lines["4.31.0"]) == [
        f"removed persistent buffer {POSITION_IDS} [1, text_config.max_position_embeddings]"
    ]
    assert epochs.schema_differences(lines["4.31.0"], lines["5.0.0"]) == [
        *(f"removed tie {tie}" for tie in ties),
        "default of text_config.position_embedding_type: absolute -> absent",
    ]
    assert epochs.schema_differences(lines["5.0.0"], lines["5.1.0"]) == [f"added tie {tie}" for tie in ties]


@given(hugging_face_configs())
def test_a_known_layout_is_what_a_model_has(config):
    """Every key and shape, for any config, without building one; fields left out take their defaults."""
    assert known_shapes(config, KNOWN_RELEASE) == built_schema(config).shapes


@given(hugging_face_codebook_configs())
def test_a_known_layout_is_what_a_codebook_alone_has(config):
    """Its part of the whole, under its own keys."""
    whole = known_shapes({"image_codebook_config": config, "init_codebook": True}, KNOWN_RELEASE)
    own = {key: shape for key, shape in whole.items() if CODEBOOK_PART.holds(key)}
    assert own == built_schema({"image_codebook_config": config}, CODEBOOK_PART).shapes


@pytest.mark.parametrize("part", PARTS.values(), ids=str)
@given(config=hugging_face_configs())
@settings(max_examples=5)
def test_a_known_layout_is_what_each_part_alone_has(part, config):
    """`FlavaModel`, and each encoder by itself."""
    whole = normal_form(config)
    own = {key: shape for key, shape in known_shapes(whole, KNOWN_RELEASE).items() if part.holds(key)}
    assert own == built_schema(whole, part).shapes


def test_a_recorded_layout_is_taken_without_importing_transformers():
    """The import takes longer than a conversion's own work."""
    code = "import sys, flava_port.target.installed as l, flava_port.target.config as c; l.expected_schema(c.DEFAULTS); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == (0 if epochs.epoch_of(transformers.__version__) else 1)


@pytest.mark.parametrize("release", ("4.18.0", "99.0.0", "5.23.0.dev0", "main", ""))
def test_a_release_outside_every_range_is_not_guessed_at(release):
    """Its layout may be any."""
    assert known_shapes(DEFAULTS, release) is None


@pytest.mark.parametrize(
    ("section", "field", "value"),
    (
        ("text_config", "hidden_size", 770),
        ("text_config", "hidden_size", "768"),
        ("text_config", "hidden_size", 768.0),
        ("text_config", "hidden_size", True),
        ("text_config", "num_hidden_layers", -1),
        ("text_config", "pad_token_id", 30522),
        ("text_config", "pad_token_id", None),
        ("text_config", "hidden_act", "swoosh"),
        ("text_config", "pruned_heads", {0: [1]}),
        ("image_config", "image_size", [224]),
        ("image_config", "patch_size", 225),
        ("image_config", "qkv_bias", None),
        ("multimodal_config", "position_embedding_type", "relative_key"),
        ("", "mim_weight", "1"),
        ("", "text_config", None),
    ),
)  # fmt: skip
def test_a_config_that_a_release_may_refuse_is_left_to_it(section, field, value):
    """A value out of range or of another type, or a field that is not FLAVA's: transformers must say."""
    config = json.loads(json.dumps(DEFAULTS))
    (config[section] if section else config)[field] = value
    assert known_shapes(config, "5.23.0") is None


def test_known_shapes_need_no_transformers():
    """Nor torch: neither is imported."""
    program = (
        "import sys\n"
        "from flava_port.target.epochs import known_shapes\n"
        "assert known_shapes({}, '5.23.0')\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=epochs.FOLDER.parents[1])


def test_a_release_beyond_the_range_is_in_the_epoch_and_can_be_added(observed_schema):
    """Its layout was compared, so it counts as known; the command that says so for ever is named."""
    text, status = schema_report(replace(observed_schema, release="99.0.0"))
    assert status == 0
    assert text.endswith("in which it was not yet seen: flava-port layout --record")


def test_a_recorded_layout_is_read_back(observed_schema, tmp_path):
    """And a release is added to a file of the same layout."""
    path = record(observed_schema, tmp_path / "new.json")
    assert epochs.read_epoch(path) == Epoch((RELEASE,), observed_schema.snapshot, path)
    record(replace(observed_schema, release="99.0.0"), path)
    assert epochs.read_epoch(path).releases == (RELEASE, "99.0.0")


def test_a_release_of_a_known_layout_extends_its_file(observed_schema, tmp_path, monkeypatch):
    """Among the known epochs, where no file is named; a new layout gets a file of its own."""
    monkeypatch.setattr(epochs, "FOLDER", tmp_path)
    monkeypatch.setattr(schema, "FOLDER", tmp_path)
    epochs.known_epochs.cache_clear()
    try:
        assert record(observed_schema) == tmp_path / f"{RELEASE}.json"
        assert record(replace(observed_schema, release="99.0.0")) == tmp_path / f"{RELEASE}.json"
        other = replace(observed_schema.snapshot, ties=())
        changed = SchemaObserved("99.0.0", replace(other, buffers=("mim_head.bias",)), None)
        assert record(changed) == tmp_path / "99.0.0.json"
        assert [str(epoch) for epoch in epochs.known_epochs()] == [f"{RELEASE} to 99.0.0", "99.0.0"]
    finally:
        monkeypatch.undo()
        epochs.known_epochs.cache_clear()


def test_a_file_of_another_layout_is_not_overwritten(observed_schema, tmp_path):
    """The message says in what they differ."""
    path = record(
        replace(observed_schema, snapshot=replace(observed_schema.snapshot, dtypes={"mim_head.bias": "float16"})), tmp_path / "new.json"
    )
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match=r"new\.json: holds the layout of .*dtype of mim_head\.bias: float16 -> float32"):
        record(observed_schema, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", (b"", b"[]", b"{}", b'{"releases": 3}', b"\xff"))
def test_a_file_that_is_no_snapshot_is_refused(content, tmp_path):
    """By name."""
    path = tmp_path / "new.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"new\.json: no layout snapshot"):
        epochs.read_epoch(path)


@pytest.mark.parametrize("shape", ("text_config.nothing", "__import__('os')", "text_config.hidden_size - 1", "'x'", "1.5"))
def test_a_shape_that_is_no_arithmetic_of_fields_is_refused(shape):
    """A snapshot is read as data: nothing in it is run."""
    snapshot = replace(epochs.epoch_of("5.23.0").snapshot, shapes={"a": shape})
    with pytest.raises(InvalidInput, match="layout snapshot: "):
        epochs.shapes(snapshot, {})
