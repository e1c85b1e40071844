"""The words of a text tokenizer, in the order of their numbers: read from files, from a folder, or from the hub."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..text import few, shown

VOCABULARY, TOKENIZER, TOKENIZER_CONFIG = "vocab.txt", "tokenizer.json", "tokenizer_config.json"
SPECIAL_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTES_MAX = 64 << 20  # BERT's have 0.2 and 0.5 MB

# Repositories of the hub that have FLAVA's vocabulary, the likeliest first.
HUB_NAMES = ("facebook/flava-full", "bert-base-uncased", "google-bert/bert-base-uncased")
BERT_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"  # of bert-base-uncased's vocab.txt


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their numbers, and where they were found."""

    words: tuple[str, ...]
    origin: str

    def as_text(self) -> str:
        """The content of a vocab.txt: a word a line."""
        return "".join(f"{word}\n" for word in self.words)

    @property
    def sha256(self) -> str:
        """The digest of that content."""
        return hashlib.sha256(self.as_text().encode()).hexdigest()

    def as_json(self) -> dict[str, object]:
        """What a conversion's record says of it."""
        return {"words": len(self.words), "sha256": self.sha256, "bert-base-uncased": self.is_berts}

    @property
    def is_berts(self) -> bool:
        """Whether it is bert-base-uncased's, which FLAVA was trained with."""
        return self.sha256 == BERT_SHA256


def read_vocabulary(given: str | Path) -> Vocabulary:
    """The vocabulary of a folder, of a vocab.txt or tokenizer.json, or of a repository on the hub, whose local cache comes first.

    Raises:
        InvalidInput: there is none, it cannot be read, or it is not for a tokenizer like FLAVA's.
    """
    path = Path(given)
    if path.is_dir():
        return _in_folder(path, str(path))
    if path.exists():
        return Vocabulary(_words_in(path), str(path))
    if is_hub_name(str(given)):
        return _from_hub(str(given))
    raise InvalidInput(f"{path}: no such file or folder")


def is_hub_name(text: str) -> bool:
    """Whether a text may name a repository of the hub: one or two parts, and not like the name of a file."""
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text, re.ASCII) is not None
    return is_name and not text.endswith((".txt", ".json"))


def cached_vocabulary() -> Vocabulary | None:
    """FLAVA's vocabulary, if the hub's local cache has it; the network is not asked."""
    from huggingface_hub import constants

    cache = Path(getattr(constants, "HF_HUB_CACHE", constants.HUGGINGFACE_HUB_CACHE))
    for name in HUB_NAMES:
        if (cache / f"models--{name.replace('/', '--')}").is_dir():  # whose lookup imports more than a conversion needs
            try:
                if (folder := _fetched(name, local=True)) is not None:
                    return _in_folder(folder, f"{name}, in the hub's local cache")
            except InvalidInput:
                continue  # half a download, or other files: nobody asked for these in particular
    return None


def _from_hub(name: str) -> Vocabulary:
    folder = _fetched(name, local=True) or _fetched(name, local=False)
    if folder is None:
        raise InvalidInput(f"{name}: no such file or folder, and the hub has no {VOCABULARY} or {TOKENIZER} under this name")
    return _in_folder(folder, f"{name}, on the hub")


def _fetched(name: str, *, local: bool) -> Path | None:
    """The folder of the hub's cache that has the repository's tokenizer, fetched if ``local`` is false; None where there is none."""
    from huggingface_hub import hf_hub_download

    found = []
    for file in (VOCABULARY, TOKENIZER, TOKENIZER_CONFIG):
        try:
            found.append(Path(hf_hub_download(name, file, local_files_only=local)))
        except Exception as error:  # each release of the library has exception types of its own
            if not local and type(error).__name__ not in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
                raise InvalidInput(f"{name}: no such file or folder, and it cannot be fetched from the hub ({_reason(error)})") from None
    return found[0].parent if any(path.name != TOKENIZER_CONFIG for path in found) else None


def _reason(error: Exception) -> str:
    """The type of an error and its first line, which says enough."""
    return shown(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


def _in_folder(folder: Path, origin: str) -> Vocabulary:
    """The words that both files of a folder have, whichever are there."""
    found = {name: _words_in(folder / name) for name in (VOCABULARY, TOKENIZER) if (folder / name).exists()}
    if not found:
        raise InvalidInput(f"{folder}: no tokenizer in it (neither {VOCABULARY} nor {TOKENIZER})")
    if len(set(found.values())) > 1:
        raise InvalidInput(f"{folder}: {VOCABULARY} and {TOKENIZER} have different words; pass the right one of the two")
    if (folder / TOKENIZER_CONFIG).exists() and _json(folder / TOKENIZER_CONFIG).get("do_lower_case") is False:
        raise InvalidInput(f"{folder}: {TOKENIZER_CONFIG} says that letters keep their case; FLAVA's tokenizer makes them small")
    return Vocabulary(next(iter(found.values())), origin)


def _words_in(path: Path) -> tuple[str, ...]:
    words = _words_of_tokenizer(path) if path.suffix == ".json" else _words_of_text(path)
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise InvalidInput(f"{path}: {shown(repr(twice[0]))} stands in it twice; a word has one number")
    if "" in words:
        raise InvalidInput(f"{path}: line {words.index('') + 1} is empty, where a word belongs")
    if missing := [word for word in SPECIAL_WORDS if word not in words]:
        raise InvalidInput(f"{path}: not the vocabulary of a tokenizer like FLAVA's: {', '.join(missing)} not in it")
    return words


def _words_of_text(path: Path) -> tuple[str, ...]:
    """The lines of a vocab.txt; other marks that end a line in Unicode may stand in words."""
    try:
        lines = _content(path).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: not a {VOCABULARY}: it is no text in UTF-8") from None
    return tuple(lines[:-1] if lines[-1] == "" else lines)


def _words_of_tokenizer(path: Path) -> tuple[str, ...]:
    """The words of a tokenizer.json, which must be BERT's uncased kind."""
    content = _json(path)
    model = _part(content, "model")
    numbers = model.get("vocab")
    if model.get("type") != "WordPiece" or not isinstance(numbers, Mapping):
        raise InvalidInput(f"{path}: its model is {shown(model.get('type'))}; FLAVA's tokenizer is a WordPiece, as bert-base-uncased's is")
    normalizer = _part(content, "normalizer")
    if normalizer.get("type") != "BertNormalizer" or normalizer.get("lowercase") is not True:
        raise InvalidInput(f"{path}: letters keep their case in it; FLAVA's tokenizer makes them small, as bert-base-uncased's does")
    added = content.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return _in_order(path, {**numbers, **{token.get("content"): token.get("id") for token in tokens}})


def _in_order(path: Path, numbers: Mapping[Any, Any]) -> tuple[str, ...]:
    """The words by their numbers, which must count 0, 1, 2, ..."""
    if not all(isinstance(word, str) and type(number) is int for word, number in numbers.items()):
        raise InvalidInput(f"{path}: not a {TOKENIZER}: a word in it has no number")
    words = sorted(numbers, key=lambda word: numbers[word])
    if wrong := [word for place, word in enumerate(words) if numbers[word] != place]:
        some = ", ".join(few([f"{shown(word)} has {numbers[word]}" for word in wrong], 2))
        raise InvalidInput(f"{path}: the numbers of its words do not count 0, 1, 2, ...: {some}")
    return tuple(words)


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_content(path))
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path}: not JSON") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: not a {path.name}: it holds a {type(content).__name__}")
    return content


def _content(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > BYTES_MAX:
            raise InvalidInput(f"{path}: not a vocabulary: it is no regular file, or larger than {BYTES_MAX >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


def differing_words(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """The numbers that two vocabularies of one size give to other words: ``2003: 'is', 'was' in the other``."""
    return [f"{number}: {one!r}, {other!r} in the other" for number, (one, other) in enumerate(zip(ours, theirs)) if one != other]
