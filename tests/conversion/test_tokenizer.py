"""The folder has FLAVA's tokenizer, with the words that were given, and every class of transformers loads the same one."""

import json
import shutil

import pytest

from flava_port import InvalidInput, NotFaithful, convert_dalle_checkpoint, convert_flava_checkpoint
from flava_port.original.seeded import made_up_words
from flava_port.original.wordpiece import WordPiece
from flava_port.target.tokenizer import TOKENIZER_FILES

WORDS = made_up_words(60)
LOADERS = ("AutoTokenizer", "BertTokenizer", "BertTokenizerFast", "FlavaProcessor", "AutoProcessor")
SENTENCES = ("a cat", "A Cat", "Café, naïve!", "don't", "cat [MASK]dog", "", "x" * 101, "中 cat")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The tiny checkpoint's folder, with its vocabulary."""
    out = tmp_path_factory.mktemp("tokenizer") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, out, tokenizer=tiny.vocabulary)
    return out


@pytest.mark.parametrize("loader", LOADERS)
def test_every_class_loads_the_same_tokenizer(folder, loader):
    """Which makes the original's numbers of every sentence, knows its length, and lower-cases."""
    import transformers

    loaded = getattr(transformers, loader).from_pretrained(folder)
    tokenizer = getattr(loaded, "tokenizer", loaded)
    ours = WordPiece(WORDS)
    for sentence in SENTENCES:
        encoded = ours.encode(sentence, length=20)
        actual = tokenizer(sentence, padding="max_length", truncation=True, max_length=20)
        assert (actual["input_ids"], actual["attention_mask"]) == (encoded.input_ids, encoded.attention_mask), sentence
    assert tokenizer.model_max_length == 20 and len(tokenizer) == 60
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(WORDS)}


def test_a_long_text_is_cut_to_the_positions_of_the_text_encoder(folder):
    """Without being told the length."""
    import transformers

    assert len(transformers.AutoTokenizer.from_pretrained(folder)("cat " * 100, truncation=True)["input_ids"]) == 20


def test_words_that_it_lacks_are_not_added_to_it(folder):
    """`FlavaProcessor` reads the vocabulary and makes none of five words."""
    import transformers

    processor = transformers.FlavaProcessor.from_pretrained(folder)
    cat, dog = (processor.tokenizer(text)["input_ids"] for text in ("a photo of a cat", "a photo of a dog"))
    assert cat != dog and processor.tokenizer.unk_token_id not in cat + dog


def files_in(folder):
    return {name for name in TOKENIZER_FILES if (folder / name).exists()}


@pytest.mark.parametrize("part", ["text", "model"])
def test_a_part_that_takes_texts_has_the_tokenizer(tiny, tmp_path, part):
    """And its own class' tokenizer loads."""
    import transformers

    convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part=part, tokenizer=tiny.vocabulary)
    assert files_in(tmp_path / "out") == set(TOKENIZER_FILES)
    assert (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("cat")["input_ids"]
        == WordPiece(WORDS).encode("cat", length=5).input_ids
    )


@pytest.mark.parametrize("part", ["image", "multimodal"])
def test_a_part_that_takes_no_texts_refuses_one(tiny, tmp_path, part):
    """Nothing is written."""
    with pytest.raises(InvalidInput, match="takes no texts; leave out --tokenizer"):
        convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", part=part, tokenizer=tiny.vocabulary)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_says_so_in_its_last_line(run_command, tiny, tmp_path):
    """With what to pass; and it has none of its files."""
    files = "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook
    ran = run_command("convert", *files, "--pytorch_dump_folder_path", tmp_path / "out")
    last = ran.out.rstrip().splitlines()[-1]
    assert (
        ran.status == 0 and last.startswith("warning  THERE IS NO TOKENIZER IN THIS FOLDER") and "--tokenizer facebook/flava-full" in last
    )
    assert not files_in(tmp_path / "out") and "tokenizer" not in json.loads((tmp_path / "out" / "conversion.json").read_text())
    ran = run_command("convert", *files, "--pytorch_dump_folder_path", tmp_path / "with", "--tokenizer", tiny.vocabulary)
    assert ran.status == 0 and "NO TOKENIZER" not in ran.out
    assert f"tokens   60 words, not bert-base-uncased's, from {tiny.vocabulary}\n" in ran.out
    assert json.loads((tmp_path / "with" / "conversion.json").read_text())["tokenizer"]["words"] == 60


def test_a_vocabulary_of_another_size_stops(run_command, tiny, tmp_path):
    """With both sizes, status 1, and nothing written."""
    (tmp_path / "vocab.txt").write_text("\n".join(made_up_words(61)))
    ran = run_command(
        "convert",
        "--checkpoint_path",
        tiny.checkpoint,
        "--no-codebook",
        "--pytorch_dump_folder_path",
        tmp_path / "out",
        "--tokenizer",
        tmp_path / "vocab.txt",
    )
    assert ran.status == 1 and ran.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "61 words, and the text encoder has embeddings for 60" in ran.err


def test_a_vocabulary_that_cannot_be_read_stops_before_the_checkpoint_is_read(run_command, tmp_path):
    """Status 2, one line."""
    ran = run_command(
        "convert",
        "--checkpoint_path",
        tmp_path / "none.pt",
        "--no-codebook",
        "--pytorch_dump_folder_path",
        tmp_path / "out",
        "--tokenizer",
        tmp_path / "vocab.txt",
    )
    assert ran.status == 2 and ran.err == f"flava-port: {tmp_path / 'vocab.txt'}: no such file or folder\n"


def test_it_goes_with_a_folder_of_transformers_alone(run_command, tiny, tmp_path):
    """torchmultimodal's checkpoints have no place for words."""
    ran = run_command(
        "convert",
        "--checkpoint_path",
        tiny.checkpoint,
        "--to",
        "torchmultimodal",
        "--pytorch_dump_folder_path",
        tmp_path / "x.pt",
        "--tokenizer",
        tiny.vocabulary,
    )
    assert ran.status == 2 and "--tokenizer go with --to hf" in ran.err


def test_a_folder_that_is_converted_on_keeps_its_tokenizer(folder, tmp_path):
    """`--from hf` finds it beside the weights."""
    convert_flava_checkpoint(folder, None, tmp_path / "text", layout="hf", part="text")
    assert (tmp_path / "text" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """``cached(words)`` puts a vocabulary into the hub's local cache as facebook/flava-full's."""
    import huggingface_hub.constants as constants

    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "hub"))

    def put(words):
        home = tmp_path / "hub" / "models--facebook--flava-full"
        shutil.rmtree(home, ignore_errors=True)
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        (home / "snapshots" / ("0" * 40)).mkdir(parents=True)
        (home / "snapshots" / ("0" * 40) / "vocab.txt").write_text("\n".join(words))

    return put


def test_flavas_own_in_the_hubs_cache_is_taken_and_said(cached, tiny, tmp_path):
    """Where its size fits; where it does not, the conversion goes on without one, and says why."""
    cached(WORDS)
    converted = convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "out", no_codebook=True)
    assert "60 words, not bert-base-uncased's, from facebook/flava-full, in the hub's local cache" in converted.summary()
    assert files_in(tmp_path / "out") == set(TOKENIZER_FILES)
    cached(made_up_words(99))
    converted = convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "without", no_codebook=True)
    assert "THERE IS NO TOKENIZER" in converted.summary() and "not taken, it has 99 words and the text encoder 60" in converted.summary()
    assert not files_in(tmp_path / "without")
    with pytest.raises(NotFaithful, match="99 words"):
        convert_flava_checkpoint(tiny.checkpoint, None, tmp_path / "given", no_codebook=True, tokenizer="facebook/flava-full")


def test_a_codebook_alone_has_the_processor_of_its_class(tiny, tmp_path):
    """Which makes the pixels that it takes, without being asked for them."""
    import transformers

    pictures = pytest.importorskip("tests.original.pictures")
    convert_dalle_checkpoint(tiny.codebook, tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(pictures.picture(300, 200), return_tensors="pt")["codebook_pixel_values"]
    codebook = transformers.FlavaImageCodebook.from_pretrained(tmp_path / "out")
    assert pixels.shape == (1, 3, 112, 112) and codebook.get_codebook_indices(pixels).shape == (1, 14, 14)
    assert not files_in(tmp_path / "out")
