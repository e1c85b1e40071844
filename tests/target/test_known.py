"""The installed transformers is told by its sources, and what it changed is said first, by name."""

import pytest

from flava_port.errors import NotFaithful
from flava_port.target import known
from flava_port.target.epochs import EPOCHS
from flava_port.target.known import InstalledFlava, doubts_about_the_installed, installed_flava, nearest_shapes_for, shapes_for
from flava_port.target.schema import PROBE, known_schema
from flava_port.target.schema_differences import in_short
from tests.releases.plants import PLANTS, plant

NEWEST = EPOCHS[-1].releases[-1]


@pytest.fixture
def unknown(monkeypatch):
    """Pretends that the installed sources are those of no recorded release, and gives the schema of its epoch."""
    schema = known_schema(installed_flava().epoch)
    monkeypatch.setattr(known, "release_with", lambda _sources: None)
    installed_flava.cache_clear()
    yield schema
    installed_flava.cache_clear()


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        (InstalledFlava(NEWEST, NEWEST, EPOCHS[-1]), f"transformers {NEWEST} has the FLAVA of {NEWEST}"),
        (InstalledFlava("9.9.0", "5.24.0", EPOCHS[-1]), "transformers 9.9.0 is not recorded yet; its FLAVA is that of 5.24.0"),
        (InstalledFlava("9.9.0", None, EPOCHS[2]), "transformers 9.9.0 is not recorded yet; its FLAVA is that of the epoch 5.0.0"),
        (
            InstalledFlava("5.23.0", None, EPOCHS[2]),
            "transformers 5.23.0, whose sources are not those that were released, has the FLAVA of the epoch 5.0.0",
        ),
        (
            InstalledFlava("5.23.0", "5.0.0", EPOCHS[2]),
            "transformers 5.23.0, whose sources are not those that were released, has the FLAVA of 5.0.0",
        ),
        (
            InstalledFlava("9.9.0", None, EPOCHS[-1], ("removed tie a.bias = b.bias", *(f"added {n} [3]" for n in "cdef")), True),
            "transformers 9.9.0 removed tie a.bias = b.bias; added c; added d; ... and 2 more; "
            f"stay on {NEWEST}, or see `flava-port layout`",
        ),
    ],
    ids=["recorded", "another number", "unknown, nothing new", "patched", "another release's sources", "changed"],
)
def test_the_installed_release_is_described_by_what_it_is(installed, says):
    """One line says whose FLAVA it has, or what changed and what to do."""
    assert installed.describe() == says


def test_a_number_alone_is_not_as_recorded():
    """Sources are as recorded where they are those of the number that they have."""
    assert InstalledFlava("5.23.0", "5.23.0", EPOCHS[-1]).as_recorded
    assert not InstalledFlava("5.23.0", "5.24.0", EPOCHS[-1]).as_recorded
    assert not InstalledFlava("9.9.0", "5.24.0", EPOCHS[-1]).as_recorded
    assert not InstalledFlava("5.23.0", None, EPOCHS[-1]).as_recorded


ENCODER_OF = {"image": "flava.image_model", "text": "flava.text_model", "multimodal": "flava.multimodal_model"}


@pytest.mark.parametrize(
    ("lines", "short"),
    [
        (
            [
                f"renamed {model}.encoder.layer.N.intermediate.dense.{end} -> {model}.encoder.layer.N.mlp_in.dense.{end}"
                for model in ENCODER_OF.values()
                for end in ("weight", "bias")
            ],
            ["renamed encoder.layer.N.intermediate to encoder.layer.N.mlp_in in all three encoders"],
        ),
        (
            [f"renamed flava.text_model.{key} -> flava.text_encoder.{key}" for key in ("layernorm.weight", "pooler.dense.bias")],
            ["renamed flava.text_model to flava.text_encoder"],
        ),
        (["renamed mim_head.bias -> mim_head.offset"], ["renamed mim_head.bias to mim_head.offset"]),
        (
            [f"epsilon of {ENCODER_OF[name]}.layernorm: {name}_config.layer_norm_eps -> 1e-06" for name in ("image", "text")],
            ["epsilon of layernorm: layer_norm_eps -> 1e-06 in the image and the text encoders"],
        ),
        (
            [f"removed {key} [3, 4]" for key in ("itm_head.pooler.dense.weight", "itm_head.pooler.dense.bias")],
            ["removed itm_head.pooler.dense"],
        ),
        (
            [f"shape of {model}.pooler.dense.weight: [{n}, {n}] -> [{n}, 7]" for n, model in enumerate(ENCODER_OF.values())],
            ["shape of pooler.dense in all three encoders"],
        ),
        (["added persistent buffer flava.text_model.embeddings.scale [7]"], ["added persistent buffer embeddings.scale in the text encoder"]),
        (["removed tie a.bias = b.bias", "default of hidden_size: 1 -> 2"], ["removed tie a.bias = b.bias", "default of hidden_size: 1 -> 2"]),
    ],
    ids=["a module of every encoder", "an encoder", "a parameter", "two encoders", "a module", "shapes", "a buffer", "as they are"],
)  # fmt: skip
def test_differences_are_said_in_short(lines, short):
    """What is so in several encoders is said once, and a module once for its weight and its bias."""
    assert in_short(lines) == short


def test_unknown_sources_are_judged_by_what_they_build(unknown):
    """Under sources that nobody has seen, shapes are stated as soon as the schema turns out to be a known one."""
    flava = installed_flava()
    assert flava.same_as is None and flava.differences == () and not flava.other_keys
    assert shapes_for(PROBE)


@pytest.mark.parametrize("name", ["a renamed submodule", "a new persistent buffer", "a wider pooler"])
def test_no_shapes_are_stated_under_sources_with_other_keys(unknown, name, monkeypatch):
    """The message says what the installed transformers changed, and that the checkpoint is not the cause."""
    plant(name, unknown, monkeypatch)
    with pytest.raises(NotFaithful, match=r"stay on .*The installed transformers is the cause, and not the checkpoint") as refused:
        shapes_for({})
    assert in_short(PLANTS[name].named)[0] in str(refused.value)


def test_what_changes_no_key_does_not_stop_a_conversion(unknown, monkeypatch):
    """Where only ties differ, shapes are stated, and the difference is known."""
    plant("a removed tie", unknown, monkeypatch)
    assert shapes_for({}) and installed_flava().differences and not installed_flava().other_keys


def test_a_recorded_release_is_not_blamed():
    """Beside a folder that is not proven, nothing is said of it."""
    assert doubts_about_the_installed(files_are_right=True) == doubts_about_the_installed(files_are_right=False) == ""


def test_other_sources_are_blamed_for_what_right_files_compute(unknown):
    """Where keys and shapes are known ones, and files differ, the files may be at fault."""
    said = doubts_about_the_installed(files_are_right=True)
    assert "the cause, and not the checkpoint: flava-port drift --from" in said
    assert doubts_about_the_installed(files_are_right=False) == ""


def test_a_changed_schema_is_blamed_whatever_the_files_are(unknown, monkeypatch):
    """The shapes of a folder are then those of the nearest release, so that its files are judged all the same."""
    plant("a renamed submodule", unknown, monkeypatch)
    assert doubts_about_the_installed(files_are_right=False).endswith("the cause, and not the checkpoint")
    assert "flava.text_model.encoder.layer.0.intermediate.dense.weight" in nearest_shapes_for({})


def test_a_transformers_that_builds_no_flava_is_described_by_that(unknown, monkeypatch):
    """Nothing is raised: what it no longer does is what it changed."""

    def refuse():
        raise NotFaithful(f"transformers {installed} no longer has FLAVA")

    installed = known.version("transformers")
    monkeypatch.setattr(known, "observe_schema", refuse)
    assert installed_flava().describe().endswith(f" no longer has FLAVA; stay on {NEWEST}, or see `flava-port layout`")
    assert installed_flava().other_keys
