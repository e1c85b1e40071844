"""The code in README.md and docs/use.md runs as it stands, on a converted folder and an image."""

import re
from pathlib import Path

import pytest

from flava_port import convert_flava_checkpoint
from tests.builders import from_pretrained
from tests.original.pictures import picture
from tests.readme import ROOT

README, USE = ROOT / "README.md", ROOT / "docs" / "use.md"


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Where the reader is: beside the converted folder and the image."""
    folder = tmp_path_factory.mktemp("use")
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder / "flava", tokenizer=tiny.vocabulary)
    picture(320, 240).save(folder / "cat.jpg")
    return folder


def run(document: Path, folder: Path) -> dict:
    """What the code's names stand for after all of it has run, in order."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
            exec(compile(block, str(document), "exec"), names)
    return names


@pytest.fixture(scope="module")
def ran(folder):
    return run(USE, folder)


def test_the_readmes_example_scores_sentences(folder):
    """The shares of two sentences that differ sum to 1 and differ."""
    shares = run(README, folder)["shares"]
    assert shares.shape == (2,) and shares.sum().item() == pytest.approx(1) and shares[0] != shares[1]


def test_each_sentence_is_scored_against_the_image(ran):
    """Matches are probabilities, and the sentences' shares sum to 1."""
    assert ran["matches"].shape == (3,) and bool(((ran["matches"] > 0) & (ran["matches"] < 1)).all())
    assert ran["shares"].sum().item() == pytest.approx(1) and ran["best"] in ran["sentences"]
    assert len(set(ran["shares"].tolist())) == 3, "sentences that differ have shares that differ"


def test_embeddings_give_the_contrastive_logits(ran):
    """Times the scale that was learned."""
    logits = ran["model"].flava.logit_scale.exp() * ran["similarities"]
    assert (logits[0] - ran["found"].contrastive_logits_per_image[0]).abs().max().item() <= 1e-4
    assert ran["fused"].shape == (3, 64)


def test_the_codebooks_pixels_are_the_originals(ran):
    """As the tiny model takes them: 24 by 24, of what was resized to 224 by 224 before."""
    assert ran["tokens"].shape == (1, 3, 3) and ran["pixels"].shape == (1, 3, 24, 24)


def test_the_encoders_come_without_a_warning(folder):
    """Every key of the folder has its place in the whole model, so that there is nothing to warn of."""
    from_pretrained(folder / "flava")
