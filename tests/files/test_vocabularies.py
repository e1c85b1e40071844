"""A tokenizer's words are read from every place that has them, and anything else is refused with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flava_port import InvalidInput
from flava_port.files.vocabulary import BERT_SHA256, cached_vocabulary, is_hub_name, read_vocabulary
from flava_port.original.seeded import made_up_words
from flava_port.target.tokenizer import tokenizer_json

WORDS = tuple(made_up_words(60))


def write_text(folder: Path, words=WORDS, end: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_bytes(("\n".join(words) + end).encode())
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty local cache of the hub. ``hub("facebook/flava-full")`` puts a repository into it and gives its folder."""
    import huggingface_hub.constants as constants

    cache = tmp_path / "hub"
    cache.mkdir()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(cache))

    def repository(name: str) -> Path:
        home, revision = cache / f"models--{name.replace('/', '--')}", "0" * 40
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(revision)
        (home / "snapshots" / revision).mkdir(parents=True)
        return home / "snapshots" / revision

    return repository


@pytest.mark.parametrize("end", ["", "\n"], ids=["no line end", "a line end"])
def test_words_are_the_lines_of_a_text(tmp_path, end):
    """The last line may end or not."""
    assert read_vocabulary(write_text(tmp_path, end=end)).words == WORDS


def test_lines_end_as_files_end_them_and_not_as_unicode_does(tmp_path):
    """A separator or a next-line mark may stand inside of a word; Windows' line ends are line ends."""
    words = (*WORDS, "a\u2028b", "c\x85d", "e\x0cf")
    assert read_vocabulary(write_text(tmp_path, words)).words == words
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    assert read_vocabulary(tmp_path / "vocab.txt").words == WORDS


def test_words_are_those_of_a_tokenizers_json_in_the_order_of_their_numbers(tmp_path):
    """Whatever the order in the file; words that were added later count too."""
    content = tokenizer_json(WORDS)
    content["model"]["vocab"] = dict(sorted(content["model"]["vocab"].items()))
    content["added_tokens"].append({"id": 60, "content": "new"})
    assert read_vocabulary(write_json(tmp_path / "tokenizer.json", content)).words == (*WORDS, "new")


@pytest.mark.parametrize("files", [("vocab.txt",), ("tokenizer.json",), ("vocab.txt", "tokenizer.json")], ids=" and ".join)
def test_words_are_those_of_a_folder(tmp_path, files):
    """From either file, or from both where they agree."""
    write_text(tmp_path)
    write_json(tmp_path / "tokenizer.json", tokenizer_json(WORDS))
    for name in {"vocab.txt", "tokenizer.json"} - set(files):
        (tmp_path / name).unlink()
    assert read_vocabulary(tmp_path).words == WORDS


def test_the_hubs_cache_is_asked_first(hub):
    """By the repository's name; the network is not needed."""
    write_text(hub("someone/tokens"))
    found = read_vocabulary("someone/tokens")
    assert found.words == WORDS and found.origin == "someone/tokens, on the hub"


@pytest.mark.parametrize("name", ["facebook/flava-full", "bert-base-uncased", "google-bert/bert-base-uncased"])
def test_flavas_own_is_found_in_the_hubs_cache(hub, name):
    """Under each name that it has there."""
    assert cached_vocabulary() is None
    write_text(hub(name))
    assert cached_vocabulary().words == WORDS and name in cached_vocabulary().origin


def test_half_a_download_is_passed_over(hub):
    """Nobody asked for it in particular; the next name may be whole."""
    hub("facebook/flava-full")
    write_text(hub("bert-base-uncased"))
    assert cached_vocabulary().origin.startswith("bert-base-uncased")


def test_an_empty_cache_costs_no_import():
    """A conversion without a tokenizer does not wait for the hub's library."""
    code = "import sys; from flava_port.files.vocabulary import cached_vocabulary as c; c(); print('huggingface_hub.file_download' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"HF_HOME": "nowhere", "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("bert-base-uncased", True),
        ("facebook/flava-full", True),
        ("a/b/c", False),
        ("../x", False),
        ("x/vocab.txt", False),
        ("/x", False),
        ("", False),
    ],
)
def test_what_may_be_a_name_on_the_hub(text, is_one):
    """One or two parts, and no file's name."""
    assert is_hub_name(text) is is_one


def changed(**parts):
    content = tokenizer_json(WORDS)
    for name, value in parts.items():
        content[name] = {**content[name], **value}
    return content


TEXTS = {
    "a word that stands in it twice": ((*WORDS, "a"), "'a' stands in it twice; a word has one number"),
    "an empty line": ((*WORDS, "", "new"), "line 61 is empty, where a word belongs"),
    "no special tokens": (("a", "b"), "not the vocabulary of a tokenizer like FLAVA's: [PAD], [UNK], [CLS], [SEP], [MASK] not in it"),
}  # fmt: skip
JSONS = {
    "another kind": (changed(model={"type": "BPE"}), "its model is BPE; FLAVA's tokenizer is a WordPiece"),
    "no model": ({}, "its model is None"),
    "letters that keep their case": (changed(normalizer={"lowercase": False}), "letters keep their case in it; FLAVA's tokenizer makes them small"),
    "a number left out": (changed(model={"vocab": {word: number + (number > 7) for number, word in enumerate(WORDS)}}), "the numbers of its words do not count 0, 1, 2, ...: d has 9"),
    "a number that is none": (changed(model={"vocab": dict.fromkeys(WORDS, "1")}), "a word in it has no number"),
    "a list": ([], "not a tokenizer.json: it holds a list"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_vocabulary_is_refused(tmp_path, words, message):
    """The message names the file and what is wrong."""
    path = write_text(tmp_path, words)
    with pytest.raises(InvalidInput) as refused:
        read_vocabulary(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)


@pytest.mark.parametrize(("content", "message"), JSONS.values(), ids=JSONS)
def test_a_tokenizers_json_that_is_not_like_flavas_is_refused(tmp_path, content, message):
    """The message names the file and what is wrong."""
    path = write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(InvalidInput) as refused:
        read_vocabulary(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)


def test_a_folder_that_contradicts_itself_is_refused(tmp_path):
    """Two files with different words, and a config that keeps the letters' case."""
    write_text(tmp_path / "two")
    write_json(tmp_path / "two" / "tokenizer.json", tokenizer_json((*WORDS[:-2], WORDS[-1], WORDS[-2])))
    with pytest.raises(InvalidInput, match="vocab.txt and tokenizer.json have different words"):
        read_vocabulary(tmp_path / "two")
    write_text(tmp_path / "cased")
    write_json(tmp_path / "cased" / "tokenizer_config.json", {"do_lower_case": False})
    with pytest.raises(InvalidInput, match="tokenizer_config.json says that letters keep their case"):
        read_vocabulary(tmp_path / "cased")


def test_what_cannot_be_read_is_refused(tmp_path, hub):
    """No such place, an empty folder, bytes that are no text, a file too large, a name that the hub does not have here."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.json").write_text("{")
    with open(tmp_path / "large.txt", "wb") as file:
        file.truncate((64 << 20) + 1)
    for name, message in {
        "no/such/place": "no such file or folder",
        "empty": "no tokenizer in it (neither vocab.txt nor tokenizer.json)",
        "bytes.txt": "it is no text in UTF-8",
        "broken.json": "not JSON",
        "large.txt": "larger than 64 MiB",
    }.items():
        with pytest.raises(InvalidInput) as refused:
            read_vocabulary(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: ") and message in str(refused.value)
    with pytest.raises(InvalidInput, match="^someone/nothing: no such file or folder, and it cannot be fetched from the hub"):
        read_vocabulary("someone/nothing")


def test_berts_vocabulary_is_known_by_its_digest(tmp_path):
    """No other is taken for it."""
    assert not read_vocabulary(write_text(tmp_path)).is_berts


@pytest.mark.peers
def test_the_real_vocabulary_is_berts(tmp_path):
    """From the text, and from the tokenizer.json beside it."""
    from tests.original.pictures import real_vocabulary

    path = real_vocabulary()
    assert read_vocabulary(path).is_berts and read_vocabulary(path).sha256 == BERT_SHA256
    assert read_vocabulary(path.with_name("tokenizer.json")).words == read_vocabulary(path).words
    assert read_vocabulary(path.parent).is_berts
