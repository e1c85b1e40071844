"""`verify` writes what it found as Markdown and as a page; what stops it from that stops it before any work."""

import importlib.util

import pytest

from flava_port.report import files
from flava_port.report.model_map import panels, unplaced
from flava_port.report.names import rows
from flava_port.report.page import proof_page, sentence


@pytest.fixture
def weights(tiny, converted):
    """A proof of the weights alone, which takes little time."""
    flags = ["--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", converted]
    return ["verify", *flags, "--weights-only"]


def test_both_are_written_and_replaced(run_command, weights, tmp_path):
    """Each run writes them anew."""
    for _ in range(2):
        assert run_command(*weights, "--markdown", tmp_path / "proof.md", "--html", tmp_path / "proof.html").status == 0
    assert (tmp_path / "proof.md").read_text().count("### FLAVA: proven") == 1
    assert (tmp_path / "proof.html").read_text().count("<!doctype html>") == 1


def test_the_summary_of_a_job_is_added_to(run_command, weights, tmp_path, monkeypatch):
    """What another command has written into it stays."""
    summary = tmp_path / "summary.md"
    summary.write_text("# Mine\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run_command(*weights, "--markdown", summary).status == 0
    assert summary.read_text().startswith("# Mine\n### FLAVA: proven")


@pytest.mark.parametrize("option", ["--markdown", "--html", "--json"])
def test_a_folder_in_its_place_stops_the_command_before_any_work(run_command, weights, tmp_path, option):
    """The message says what to do."""
    ran = run_command(*weights, option, tmp_path)
    assert ran.status == 2 and ran.err == f"flava-port: {tmp_path}: is a folder; name a file\n" and not ran.out


def test_a_page_without_jinja2_stops_the_command_before_any_work(run_command, weights, tmp_path, monkeypatch):
    """The message says what to install."""
    found = importlib.util.find_spec
    monkeypatch.setattr(files, "find_spec", lambda name: None if name == "jinja2" else found(name))
    ran = run_command(*weights, "--html", tmp_path / "proof.html")
    assert ran.status == 2 and "pip install 'flava-port[report]'" in ran.err and not (tmp_path / "proof.html").exists()


def test_everything_that_is_measured_has_its_place(certificate):
    """In the model from pixels and words to losses; what is measured end to end belongs to the logits. Every key is there, once."""
    pytest.importorskip("jinja2")
    assert unplaced(certificate) == []
    drawn = panels(certificate)
    assert [panel.title for panel in drawn][:3] == ["Image encoder", "Text encoder", "Multimodal encoder"]
    cells = [cell for panel in drawn for line in panel.lines for cell in line.cells if cell]
    assert sum(len(cell.measured) for cell in cells) == sum(len(claim.measured) for claim in certificate.claims)
    assert len({cell.path for cell in cells}) == len(cells)
    listed = list(rows(certificate))
    assert len(listed) == len({row.in_file for row in listed}) == 246 and not [row for row in listed if row.state in ("wrong", "unknown")]
    assert sentence(certificate) in proof_page(certificate)
