"""A release that changes FLAVA's layout is in no known epoch, and every change is named key by key."""

import pytest

from flava_port.releases.schema import observe_schema
from flava_port.target.epochs import schema_differences
from tests.releases.plants import PLANTS, plant, plant_default_epsilon


def test_changes_planted_together_are_all_named(observed_schema, monkeypatch):
    """Each by its own line, and nothing else is."""
    unchanged = observed_schema.snapshot
    named = [line for name in PLANTS for line in plant(name, unchanged, monkeypatch)]
    named += plant_default_epsilon(monkeypatch)
    assert sorted(schema_differences(unchanged, observe_schema().snapshot)) == sorted(named)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_change_planted_alone_is_named(observed_schema, name, monkeypatch):
    """By its own lines, and by no other."""
    named = plant(name, observed_schema.snapshot, monkeypatch)
    assert sorted(schema_differences(observed_schema.snapshot, observe_schema().snapshot)) == sorted(named)


def test_the_command_names_a_changed_default(run_command, monkeypatch):
    """And the epoch that it differs from, and the command that records it; exit status 1."""
    [line] = plant_default_epsilon(monkeypatch)
    ran = run_command("layout")
    assert ran.status == 1
    assert f"\n  {line}\n" in ran.out
    assert ran.out.splitlines()[-1].endswith("flava-port layout --record")


def test_a_release_that_no_longer_builds_flava_is_reported(run_command, monkeypatch):
    """With what transformers said, and no traceback."""
    import transformers

    def refuse(_config):
        raise AttributeError("no such thing as FLAVA")

    monkeypatch.setattr(transformers, "FlavaForPreTraining", refuse)
    ran = run_command("layout")
    assert ran.status == 1
    assert ran.err.endswith("no longer builds FLAVA: AttributeError: no such thing as FLAVA\n")


def test_a_layout_that_is_no_function_of_the_config_is_not_recorded(tmp_path, run_command, monkeypatch):
    """A width that only some configs have cannot be foretold; the key is named, and nothing is written."""
    from torch import nn
    from transformers.models.flava import modeling_flava

    original = modeling_flava.FlavaPooler.__init__

    def init(self, config):
        original(self, config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size + 33)

    monkeypatch.setattr(modeling_flava.FlavaPooler, "__init__", init)
    ran = run_command("layout", "--record", tmp_path / "new.json")
    assert ran.status == 1
    assert "no expression was found for flava.text_model.pooler.dense.weight" in ran.err
    assert not list(tmp_path.iterdir())
