"""``flava-port layout`` says which epoch the installed transformers is in, or what it changed; ``--record`` lists the release."""

import json

import pytest
import transformers
from torch import nn

from flava_port.errors import InvalidInput
from flava_port.releases import recorder
from flava_port.releases.recorder import record_release, schema_report
from flava_port.target.epochs import EPOCHS, RELEASES, RecordedRelease, epoch_of, read_releases, recorded_releases, release_with
from flava_port.target.installed import source_digest
from flava_port.target.keys import POSITION_IDS
from flava_port.target.known import nearest
from flava_port.target.schema import known_schema
from flava_port.target.schema_differences import schema_differences
from tests.releases.plants import change_when_built, plant_default_epsilon

RELEASE = transformers.__version__


def test_the_installed_transformers_is_in_a_known_epoch(observed_schema):
    """If it is not, the failure shows the differences and the command that records the release."""
    text, status = schema_report(RELEASE, observed_schema)
    assert status == 0, text


def test_the_schema_stated_for_its_epoch_is_the_observed_one(observed_schema):
    """What is stated of the installed release's epoch is what is observed, in every part of the schema."""
    epoch, _ = nearest(observed_schema)
    stated = known_schema(epoch)
    assert schema_differences(stated, observed_schema) == schema_differences(observed_schema, stated) == []
    assert {*stated.switched} == {*observed_schema.switched} and {*stated.ties} == {*observed_schema.ties}
    assert stated.shapes == observed_schema.shapes and stated.epsilons == observed_schema.epsilons


def test_epochs_differ():
    """No two neighbouring epochs have the same schema."""
    for older, newer in zip(EPOCHS, EPOCHS[1:]):
        assert schema_differences(known_schema(older), known_schema(newer))


def test_what_set_the_epochs_apart_is_told():
    """position_ids left at 4.31.0; the heads' ties left at 5.0.0 and came back at 5.1.0."""
    before, later, untied, tied = (known_schema(epoch_of(release)) for release in ("4.30.2", "4.31.0", "5.0.0", "5.1.0"))
    ties = [f"{head}.bias = {head}.decoder.bias" for head in ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head")]
    assert schema_differences(before, later) == [f"removed persistent buffer {POSITION_IDS} [1, 43]"]
    assert schema_differences(later, untied) == [
        *(f"removed tie {tie}" for tie in ties),
        "default of text_config.position_embedding_type: absolute -> absent",
    ]
    assert schema_differences(untied, tied) == [f"added tie {tie}" for tie in ties]


def test_a_schema_that_is_known_is_said_with_its_size(observed_schema):
    """The report has the epoch and its numbers of keys, ties and buffers."""
    assert schema_report("4.30.2", known_schema(EPOCHS[0])) == (
        "transformers 4.30.2: the schema of epoch 4.25.1 to 4.30.2 (619 keys at FLAVA's own size, 4 tied, 1 persistent buffer)",
        0,
    )


def test_a_release_beyond_the_range_is_in_the_epoch_and_can_be_added(observed_schema):
    """An unseen release with a known schema counts as known, and the report names the command that records it."""
    text, status = schema_report("99.0.0", observed_schema)
    assert status == 0
    assert text.endswith("in which it was not yet seen: flava-port layout --record")


def test_the_command_names_a_changed_default(run_command, monkeypatch):
    """The exit status is 1, and the report names the field and the command that records a release."""
    [line] = plant_default_epsilon(monkeypatch)
    ran = run_command("layout")
    assert ran.status == 1
    assert ran.out.splitlines()[0] == f"transformers {RELEASE} default of layer_norm_eps: 1e-12 -> 1e-05 in the text encoder."
    assert f"\n  {line}\n" in ran.out
    assert ran.out.splitlines()[-1].endswith("flava-port layout --record")


def test_a_release_that_no_longer_builds_flava_is_reported(run_command, monkeypatch):
    """The message is one line with what transformers said, and the exit status 1."""
    import transformers  # which is another module than the one above, once its models are imported

    def refuse(_config):
        raise AttributeError("no such thing as FLAVA")

    monkeypatch.setattr(transformers, "FlavaForPreTraining", refuse)
    ran = run_command("layout")
    assert ran.status == 1
    assert ran.err.endswith("no longer builds FLAVA: AttributeError: no such thing as FLAVA\n")


def test_a_release_is_recorded_in_a_file(run_command, tmp_path):
    """`--record FILE` makes the file, with the installed release and the digest of its sources."""
    file = tmp_path / "new.json"
    ran = run_command("layout", "--record", file)
    assert ran.status == 0 and ran.out.startswith(f"{file}: has transformers {RELEASE}, of epoch ")
    [(release, recorded)] = read_releases(file).items()
    assert release == RELEASE and recorded.sources == source_digest()


def test_a_release_is_added_to_a_file_of_others(observed_schema, tmp_path):
    """The file keeps its releases; one that it has already changes nothing."""
    file, epoch = tmp_path / "new.json", nearest(observed_schema)[0]
    file.write_text(json.dumps({"9.0.0": {"epoch": epoch.first, "sources": "another"}}))
    record_release("10.0.0", "a digest", observed_schema, file)
    record_release("9.0.0", "another", observed_schema, file)
    assert read_releases(file) == {"9.0.0": RecordedRelease(epoch.first, "another"), "10.0.0": RecordedRelease(epoch.first, "a digest")}


def test_a_release_is_recorded_in_the_package_where_no_file_is_named(observed_schema, tmp_path, monkeypatch):
    """From then on the release is known by its sources, and the epoch's name has its number."""
    file = tmp_path / "releases.json"
    file.write_bytes(RELEASES.read_bytes())
    monkeypatch.setattr(recorder, "RELEASES", file)
    monkeypatch.setattr("flava_port.target.epochs.RELEASES", file)
    epoch, _ = nearest(observed_schema)
    try:
        assert record_release("99.0.0", "a digest", observed_schema) == f"{file}: has transformers 99.0.0, of epoch {epoch}"
        assert str(epoch).endswith("99.0.0") and release_with("a digest") == "99.0.0"
    finally:
        monkeypatch.undo()
        recorded_releases.cache_clear()
    assert release_with("a digest") is None


def test_other_sources_do_not_take_the_place_of_a_recorded_release(observed_schema, tmp_path):
    """A release that is listed with another digest is refused, and the file left as it is."""
    file = tmp_path / "new.json"
    record_release("9.0.0", "a digest", observed_schema, file)
    before = file.read_bytes()
    with pytest.raises(InvalidInput, match=r"new\.json: has transformers 9\.0\.0 with other sources"):
        record_release("9.0.0", "another", observed_schema, file)
    assert file.read_bytes() == before


def test_a_file_of_something_else_is_not_overwritten(observed_schema, tmp_path):
    """The message names the file, which is left as it is."""
    file = tmp_path / "new.json"
    file.write_text('{"model_type": "flava"}')
    with pytest.raises(InvalidInput, match=r"new\.json: no list of releases"):
        record_release("9.0.0", "a digest", observed_schema, file)
    assert file.read_text() == '{"model_type": "flava"}'


def test_a_schema_that_is_not_stated_is_not_recorded(tmp_path, run_command, monkeypatch):
    """The exit status is 1, the message says what differs and where to state it, and nothing is written."""

    def widen(pooler: nn.Module) -> None:
        pooler.dense = nn.Linear(pooler.dense.in_features, pooler.dense.in_features + 33)

    change_when_built(monkeypatch, "FlavaPooler", widen)
    ran = run_command("layout", "--record", tmp_path / "new.json")
    assert ran.status == 1
    assert "\n  shape of flava.text_model.pooler.dense.weight: [31, 31] -> [64, 31]\n" in ran.err
    assert "state it in flava_port/target/shapes.py and epochs.py" in ran.err
    assert not list(tmp_path.iterdir())
