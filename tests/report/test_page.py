"""The page of a proof: one file that loads nothing, the verdict and the cause first, whatever texts the files hold."""

import re
from html.parser import HTMLParser

import pytest

from flava_port.proof.certificate import Claim, Finding, MappedKey, Measured, Verdict
from flava_port.report.model_map import first_to_diverge, panels, power_of, unplaced
from flava_port.report.names import module_of, names_of, names_of_module
from flava_port.report.plots import strip_of
from flava_port.rules.tables import source_name
from flava_port.target.config import DEFAULTS
from flava_port.target.shapes import expected_shapes
from tests.report.certificates import FROM, HOSTILE, QUERY, a_certificate, differing, left_open, proven

pytest.importorskip("jinja2")

from flava_port.report.page import proof_page, sentence

LAYER = QUERY.removesuffix(".attention.attention.query.weight")


def full_size():
    """The certificate of a model of FLAVA's size, a gradient measured for each key and every layer's output."""
    keys = list(expected_shapes(DEFAULTS))
    gradients = [Measured(key, 1e-9, 1e-6) for key in keys]
    states = [Measured(f"pairs, plain: {name} hidden state {n}", 0.0, 1e-12) for name in ("image", "text") for n in range(13)]
    certificate = a_certificate(proven("values"), proven("forward", states), proven("gradients", gradients))
    certificate.keys = [MappedKey(source_name(key), key) for key in keys]
    certificate.digests |= dict.fromkeys(keys, "cd" * 32)
    return certificate


def faulty():
    """A certificate in which a query is another's, so that its layer's output differs and much else."""
    certificate = full_size()
    certificate.claims[0] = differing("values", 1)
    forward = certificate.claims[1]
    forward.verdict, forward.summary = Verdict.DIFFERS, "1 of 26 differ"
    forward.findings = [Finding(QUERY.removesuffix(".weight"), "its original (rule 11)", "the first module to diverge")]
    forward.measured.append(Measured("pairs, plain: text hidden state 2", 0.5, 1e-12))
    forward.planted = {"an epsilon": 1e-5, "tanh": 1e-3}
    forward.floor = 1e-15
    return certificate


class Reader(HTMLParser):
    """Collects the tags of a page with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_a_page_loads_nothing_and_is_small():
    """At full size it is under 2 MB; nothing in it names an address, and its policy would let nothing in."""
    page = proof_page(full_size())
    assert len(page.encode()) < 2_000_000
    links = [
        value for _, attributes in read(page).tags for name, value in attributes.items() if name in ("src", "href", "action", "srcset")
    ]
    assert links and not [link for link in links if not link.startswith("#") and link != "data:,"]
    assert not re.search(r"@import|url\(|https?://", page) and "default-src 'none'" in page


def test_the_verdict_comes_first_then_the_cause_then_the_claims():
    """The cause and the first module to diverge have their names in all layouts, and the rules."""
    text = read(proof_page(faulty())).text
    order = ["This folder is not the original model.", "Cause: ", "The cause", FROM, "rule 11", "The first module to diverge", "Claims and"]
    places = [text.index(part) for part in order]
    assert places == sorted(places) and "model.text_encoder.encoder.layer.1.attention.query" in text


@pytest.mark.parametrize(
    ("claims", "asked", "said"),
    [
        ([proven("values")], "everything", "This folder is the original model."),
        ([proven("values")], "the weights", "Of this folder, the weights are the original's; what it computes was not verified."),
        ([proven("values"), left_open("tokens")], "everything", "This folder is the original model."),
        ([differing("values", 1)], "everything", "This folder is not the original model."),
        ([Claim("values")], "everything", "It is not proven that this folder is the original model."),
    ],
    ids=["proven", "weights only", "left open", "differs", "not proven"],
)
def test_the_sentence_says_no_more_than_was_checked(claims, asked, said):
    """And what was left open stands below it."""
    certificate = a_certificate(*claims, asked=asked)
    assert sentence(certificate) == said and said in read(proof_page(certificate)).text
    assert ("Left open: tokens" in read(proof_page(certificate)).text) is any(claim.left_open for claim in claims)


def test_texts_out_of_files_are_never_tags():
    """Wherever they stand: keys, findings, summaries, digests, versions, what was measured."""
    certificate = faulty()
    certificate.claims += [Claim(HOSTILE, Verdict.DIFFERS, HOSTILE, [Finding(HOSTILE, HOSTILE, HOSTILE, HOSTILE)])]
    certificate.claims += [proven(HOSTILE, [Measured(HOSTILE, 1.0, 2.0), Measured(f"{LAYER}{HOSTILE}", 1.0, 2.0)])]
    certificate.claims[-1].planted = {HOSTILE: 4.0}
    certificate.keys += [MappedKey(HOSTILE, f"flava.{HOSTILE}"), MappedKey(HOSTILE, dropped=HOSTILE)]
    certificate.digests |= {HOSTILE: HOSTILE}
    certificate.versions |= {HOSTILE: HOSTILE}
    before, after = (read(page) for page in (proof_page(faulty()), proof_page(certificate)))
    scripts = [[attributes for tag, attributes in reader.tags if tag == "script"] for reader in (before, after)]
    assert scripts[0] == scripts[1] and {tag for tag, _ in after.tags} <= {tag for tag, _ in before.tags}
    assert "\x1b" not in proof_page(certificate)


def test_a_fault_colours_what_it_reaches_and_is_marked_itself():
    """Gradients, to which it spreads, do not colour a refuted model; the tensor that differs and the first to diverge are marked."""
    cells = {cell.path: cell for panel in panels(faulty()) for line in panel.lines for cell in line.cells if cell}
    query = cells[QUERY.removesuffix(".weight")]
    assert query.state == "wrong" and query.diverges_first and first_to_diverge(faulty()) == query.path
    assert cells[LAYER].level == "far" and cells[LAYER.replace("layer.1", "layer.0")].level == "exact"
    assert cells[f"{LAYER}.output.dense"].level == "equal" and cells[f"{LAYER}.output.dense"].measured
    proven_cells = [cell for panel in panels(full_size()) for line in panel.lines for cell in line.cells if cell and cell.measured]
    assert {cell.level for cell in proven_cells} == {"exact", "below"}


def test_a_measurement_of_a_whole_layer_or_of_a_module_finds_its_place():
    """By the name in it, whatever else is said."""
    certificate = full_size()
    certificate.claims.append(
        proven("blocks", [Measured(f"{LAYER}: output, float64", 1.0, 9.0), Measured(f"{LAYER}.output.dense", 1.0, 9.0)])
    )
    cells = {cell.path: cell for panel in panels(certificate) for line in panel.lines for cell in line.cells if cell}
    assert cells[LAYER].level == cells[f"{LAYER}.output.dense"].level == "near"


def test_only_a_blocks_own_error_colours_a_refuted_model():
    """Where it was measured: what goes in and gradients are wrong in every block behind the fault."""
    certificate = faulty()
    after = LAYER.replace("layer.1", "layer.2")
    what = {LAYER: 0.5, f"{LAYER}: what goes in": 0.0, after: 0.0, f"{after}: what goes in": 0.5}
    certificate.claims.append(proven("blocks", [Measured(name, error, 1e-6) for name, error in what.items()]))
    cells = {cell.path: cell for panel in panels(certificate) for line in panel.lines for cell in line.cells if cell}
    assert (cells[LAYER].level, cells[after].level) == ("far", "exact")


def test_errors_are_drawn_against_their_tolerance():
    """Of the noise floor, the tolerance, and planted faults each is right of the one before; what is no number is farthest."""
    strip = strip_of(faulty().claims[1])
    assert strip.exact == 26 and len(strip.dots) == 1
    assert strip.floor.x < strip.tolerance < strip.planted[0].x < strip.planted[1].x < strip.dots[0].x
    assert "an epsilon would show 1.0e-05" in strip.planted[0].says
    assert power_of(float("nan"), 1.0) == power_of(1.0, 0.0) == float("inf") and strip_of(proven("keys")) is None
    assert max(x for x, _ in strip.ticks) <= max(dot.x for dot in strip_of(proven("x", [Measured("y", float("nan"), 1.0)])).dots)


def test_blocks_bring_their_own_floor_and_weakest_fault():
    """Where a claim says nothing of the whole model; the detail of a block says both."""
    blocks = [Measured(LAYER, 1e-9, 1e-6, 1e-8, 1e-3), Measured("mim_head: what goes in", 0.0, 1e-6, 1e-7, 1e-4)]
    certificate = full_size()
    certificate.claims.append(proven("blocks", blocks))
    strip = strip_of(certificate.claims[-1])
    assert strip.dots[0].x < strip.floor.x < strip.tolerance < strip.planted[0].x < strip.planted[1].x
    assert "mim_head" in strip.planted[0].says and not unplaced(certificate)
    assert '[true, "blocks", "mim_head: what goes in", "exact", "0.0e+00", "1.0e-07", "1.0e-06", "1.0e-04"]' in proof_page(certificate)


def test_releases_that_lose_biases_are_marked():
    """Those in the ranges that the proof found, and no others."""
    certificate = full_size()
    certificate.lost_in = ["4.43.0 to 4.57.6", "5.0.0"]
    tags = read(proof_page(certificate)).tags
    marks = [attributes["class"] for tag, attributes in tags if tag == "li" and attributes.get("class") in ("right", "loses")]
    assert 1 < marks.count("loses") < len(marks) and marks[0] == marks[-1] == "right"


@pytest.mark.parametrize("key", [*expected_shapes(DEFAULTS)][::97])
def test_names_lead_through_the_three_layouts(key):
    """Of every key, and of the module that it belongs to."""
    names = names_of(key)
    assert names.transformers == key and names.original and names.torchmultimodal and names.rules.startswith("rule")
    module = names_of_module(module_of(key))
    assert names.original.startswith(module.original) and names.torchmultimodal.startswith(module.torchmultimodal)


def test_a_name_that_is_none_of_flavas_stays_alone():
    """No rule is applied to it."""
    assert names_of("zzz") == names_of_module("zzz") and names_of("zzz").original == ""


def test_a_block_is_marked_by_the_comparison_that_shows_its_fault_best():
    """On whole inputs float32 may hide what float64 shows by orders of magnitude; the mark is right of the tolerance then."""
    ways = [Measured("layer.0: on whole inputs", 0.0, 1e-6, weakest=1e-8), Measured("layer.0", 0.0, 1e-13, weakest=1e-8)]
    strip = strip_of(Claim("forward", measured=ways))
    assert [mark.says for mark in strip.planted] == ["in layer.0 1.0e-08"] and strip.planted[0].x > strip.tolerance
    assert 0 <= strip.label_x <= strip.planted[0].x
