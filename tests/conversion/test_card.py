"""The folder's model card is one that the hub takes, says where the weights come from, and its lines of code run."""

import hashlib
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from flava_port import convert_dalle_checkpoint, convert_flava_checkpoint
from flava_port.files import staging
from flava_port.target.card import add_to_card, is_ours
from tests.original.pictures import picture

PARTS = {
    None: "FlavaForPreTraining",
    "model": "FlavaModel",
    "image": "FlavaImageModel",
    "text": "FlavaTextModel",
    "multimodal": "FlavaMultimodalModel",
}


def convert(tiny, folder, part=None, **options):
    """With the vocabulary where the part takes one."""
    tokenizer = None if part in ("image", "multimodal") else tiny.vocabulary
    convert_flava_checkpoint(tiny.checkpoint, None if part else tiny.codebook, folder, part=part, tokenizer=tokenizer, **options)
    return (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def card(tiny, tmp_path_factory):
    return convert(tiny, tmp_path_factory.mktemp("card") / "out")


def test_the_hubs_library_reads_it(card):
    """With the licence that Meta's weights have, and the library that loads the folder."""
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.tags) == ("bsd-3-clause", "transformers", ["flava"])


def test_it_names_every_file_with_its_digest(card, tiny):
    """Checkpoint, codebook and vocabulary."""
    for path in (tiny.checkpoint, tiny.codebook):
        assert f"| `{path.name}` |" in card and hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert "60 words, not those of bert-base-uncased" in card and hashlib.sha256(tiny.vocabulary.read_bytes()).hexdigest() in card


def test_it_says_what_was_proven_and_with_which_versions(card):
    """That every tensor was read back."""
    import transformers

    assert "- 234 tensors read back from the disk, each equal to its source bit for bit\n" in card
    assert f"transformers {transformers.__version__}" in card and "There is no tokenizer" not in card


def test_a_folder_without_a_tokenizer_says_so(tiny, tmp_path):
    """Where its class takes texts."""
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out")
    assert "There is no tokenizer in this folder" in (tmp_path / "out" / "README.md").read_text()


def run_lines_of(card, folder, monkeypatch):
    """Runs the card's code in its folder, beside an image."""
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code.splitlines()) <= 7
    picture(60, 40).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("part", PARTS)
def test_the_lines_of_code_run(tiny, tmp_path, monkeypatch, part):
    """For the class of each part."""
    card = convert(tiny, tmp_path / "out", part)
    assert f"# FLAVA, for `{PARTS[part]}`\n" in card
    names = run_lines_of(card, tmp_path / "out", monkeypatch)
    result = next(names[name] for name in ("shares", "embeddings", "states") if name in names)
    assert result.isfinite().all() and (part is not None or result.shape == (2,))


def test_the_codebooks_lines_of_code_run(tiny, tmp_path, monkeypatch):
    """They give the tokens of an image."""
    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
    names = run_lines_of((tmp_path / "out" / "README.md").read_text(), tmp_path / "out", monkeypatch)
    assert names["tokens"].shape == (1, 14, 14)


def test_a_readme_that_somebody_wrote_or_changed_is_kept(tiny, tmp_path):
    """Whatever bytes it has, when the folder is replaced."""
    first = convert(tiny, tmp_path / "out")
    for content in (b"mine \xff\n", first.replace("FLAVA, for", "My FLAVA, for").encode()):
        (tmp_path / "out" / "README.md").write_bytes(content)
        convert(tiny, tmp_path / "again", force=True)
        convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out", force=True)
        assert (tmp_path / "out" / "README.md").read_bytes() == content


def test_a_card_that_nobody_changed_is_written_anew(tiny, tmp_path):
    """Or it would name the weights that were there before."""
    first = convert(tiny, tmp_path / "out")
    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part="image", force=True)
    second = (tmp_path / "out" / "README.md").read_text()
    assert is_ours(first) and is_ours(second) and "for `FlavaImageModel`" in second


def test_a_killed_run_s_folder_with_a_card_of_ours_is_cleared_away(tiny, tmp_path):
    """One with a README of somebody else's is left, and named."""
    convert(tiny, tmp_path / "first")
    for stage, card in ((".out.0123abcd.partial", None), (".out.4567cdef.partial", b"mine")):
        shutil.copytree(tmp_path / "first", tmp_path / stage / "new")
        (tmp_path / stage / "lock").write_text(staging._MARK)
        if card:
            (tmp_path / stage / "new" / "README.md").write_bytes(card)
    removed, left = convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, tmp_path / "out").notes
    assert removed.startswith("removed .out.0123abcd.partial") and f"{tmp_path / '.out.4567cdef.partial'} is left over" in left
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.4567cdef.partial", "first", "out"]


def test_what_is_proven_later_is_added_to_a_card_of_ours_alone(card, tmp_path):
    """Which stays one of ours."""
    path = tmp_path / "README.md"
    path.write_text(card)
    add_to_card(tmp_path, ["forward: proven", "gradients: proven"])
    more = path.read_text()
    assert "bit for bit\n- forward: proven\n- gradients: proven\n<!-- end -->\n" in more and is_ours(more)
    path.write_bytes(mine := more.encode() + b"\xff")
    add_to_card(tmp_path, ["losses: proven"])
    assert path.read_bytes() == mine


def test_converting_with_verify_adds_its_claims(run_command, tiny, tmp_path):
    """Each with its verdict."""
    files = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--tokenizer", tiny.vocabulary
    ran = run_command("convert", *files, "--pytorch_dump_folder_path", tmp_path / "out", "--verify")
    card = (tmp_path / "out" / "README.md").read_text()
    assert ran.status == 0 and is_ours(card)
    assert "\n- verified: gradients: proven. " in card and "\n- verified: tokens: proven. " in card
