"""What the folder's processor makes of images and texts is what the original makes; an edit of any field of it is found."""

import json
import shutil
from copy import deepcopy

import pytest

from flava_port import convert_flava_checkpoint
from flava_port.files.staging import write_files
from flava_port.files.vocabulary import Vocabulary
from flava_port.original.seeded import made_up_words
from flava_port.proof.certificate import Claim, NothingToJudge, Verdict
from flava_port.proof.tokens import TextEvidence, judge_tokens
from flava_port.target.config import DEFAULTS
from flava_port.target.parts import WHOLE
from flava_port.target.preprocessor import preprocessor_differences, preprocessor_json
from flava_port.target.processor import processor_files
from flava_port.target.tokenizer import ChosenTokenizer
from tests.original.pictures import Image

assert Image, "Pillow is needed by what is imported next"
from flava_port.proof.images import ImageEvidence, judge_codebook_pixels, judge_pixels  # noqa: E402

WORDS = tuple(made_up_words(60))
CONFIG = deepcopy(DEFAULTS)  # images of 14 by 14 patches, as FLAVA's, but of few pixels
CONFIG["image_config"] |= {"image_size": 56, "patch_size": 4}
CONFIG["text_config"] |= {"vocab_size": 60, "max_position_embeddings": 20}


@pytest.fixture
def folder(tmp_path):
    """A folder with a processor for that config, and no weights."""
    tokenizer = ChosenTokenizer(Vocabulary(WORDS, ""), "", "")
    write_files(tmp_path, {"config.json": {"model_type": "flava"}, **processor_files(CONFIG, WHOLE, tokenizer)})
    return tmp_path


@pytest.fixture
def given(tmp_path_factory):
    """The vocabulary that the original has."""
    path = tmp_path_factory.mktemp("given") / "vocab.txt"
    path.write_text("\n".join(WORDS))
    return path


def edit(path, **changed):
    """Changes fields of a JSON file; a dict changes fields inside."""
    content = json.loads(path.read_text())
    for name, value in changed.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) and isinstance(content[name], dict) else value
    path.write_text(json.dumps(content))


def claims_about_images(folder) -> dict[str, Claim]:
    found = {name: Claim(name) for name in ("pixels", "codebook pixels")}
    try:
        evidence = ImageEvidence(folder, CONFIG)
        judge_pixels(evidence, found["pixels"])
        judge_codebook_pixels(evidence, lambda: None, found["codebook pixels"])
    except Exception as error:  # as `Check.settle` has it: what stops a check proves nothing
        found["pixels"].summary = str(error)
    return found


def claim_about_texts(folder, given) -> Claim:
    claim = Claim("tokens")
    judge_tokens(TextEvidence(folder, CONFIG, given), claim)
    return claim


def test_a_clean_processor_is_the_originals(folder, given):
    """Every image and text; what differs by design is stated with its size."""
    images = claims_about_images(folder)
    assert [claim.verdict for claim in images.values()] == [Verdict.PROVEN] * 2, images
    assert "images are the original's bit for bit" in images["pixels"].summary
    assert "resized from the image, where the original resizes what its encoder gets: up to " in images["codebook pixels"].summary
    texts = claim_about_texts(folder, given)
    assert texts.verdict is Verdict.PROVEN and f"the 60 words of {given}" in texts.summary


SEEN = {
    "do_resize": False,
    "size": {"height": 120, "width": 120},
    "resample": 2,
    "crop_size": {"height": 100, "width": 100},
    "do_rescale": False,
    "rescale_factor": 1 / 255.1,
    "do_normalize": False,
    "image_mean": [0.4815, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.2613, 0.27577711],
    "return_image_mask": True,
    "input_size_patches": 13,
    "total_mask_patches": 74,
    "mask_group_min_patches": 15,
    "mask_group_max_patches": 30,
    "mask_group_min_aspect_ratio": 0.31,
    "mask_group_max_aspect_ratio": 2.0,
    "return_codebook_pixels": True,
    "codebook_do_resize": False,
    "codebook_size": {"height": 120, "width": 120},
    "codebook_resample": 3,
    "codebook_crop_size": {"height": 104, "width": 104},
    "codebook_do_rescale": False,
    "codebook_rescale_factor": 1 / 254.9,
    "codebook_do_map_pixels": False,
    "codebook_image_mean": [0.0001, 0.0, 0.0],
    "codebook_image_std": [1.0, 1.0, 1.0001],
    "image_processor_type": "CLIPImageProcessor",
}
# What no image shows: where the size is right already nothing is cropped, and a mean of 0 with a deviation of 1 changes nothing.
BY_THE_FIELD_ALONE = (
    "do_convert_rgb",
    "do_center_crop",
    "codebook_do_center_crop",
    "codebook_do_normalize",
    "feature_extractor_type",
    "processor_class",
)


def test_every_field_is_edited_here():
    """None is written that no edit below is about."""
    assert {*SEEN, *BY_THE_FIELD_ALONE} == set(preprocessor_json(CONFIG))


@pytest.mark.parametrize("field", SEEN)
def test_an_edited_field_is_seen_in_what_it_does(folder, field):
    """A claim differs, or cannot be proven; and the field itself is compared too."""
    edit(folder / "preprocessor_config.json", **{field: SEEN[field]})
    images = claims_about_images(folder)
    assert any(claim.verdict is not Verdict.PROVEN for claim in images.values())
    assert [name for name, _, _ in preprocessor_differences(folder, CONFIG)] == [f"preprocessor_config.json: {field}"]


@pytest.mark.parametrize("field", BY_THE_FIELD_ALONE)
def test_an_edit_that_no_image_shows_is_found_by_the_field(folder, field):
    """As `config` compares it."""
    edit(folder / "preprocessor_config.json", **{field: False})
    assert [name for name, _, _ in preprocessor_differences(folder, CONFIG)] == [f"preprocessor_config.json: {field}"]


def swap(words):
    return [*words[:10], words[11], words[10], *words[12:]]


def numbered(words):
    return {word: number for number, word in enumerate(words)}


def swap_everywhere(folder):
    (folder / "vocab.txt").write_text("\n".join(swap(WORDS)))
    edit(folder / "tokenizer.json", model={"vocab": numbered(swap(WORDS))})


TEXT_EDITS = {
    "two words of vocab.txt exchanged": (lambda f: (f / "vocab.txt").write_text("\n".join(swap(WORDS))), "different words"),
    "two words of both files exchanged": (swap_everywhere, "10: 'g', 'f' in the other; 11: 'f', 'g' in the other"),
    "a word too many": (lambda f: edit(f / "tokenizer.json", model={"vocab": numbered((*WORDS, "new"))}), ""),
    "letters keep their case": (lambda f: edit(f / "tokenizer_config.json", do_lower_case=False), "letters keep their case"),
    "and in tokenizer.json": (lambda f: edit(f / "tokenizer.json", normalizer={"lowercase": False}), "letters keep their case"),
    "another length": (lambda f: edit(f / "tokenizer_config.json", model_max_length=19), "model_max_length: 19, where the original has 20"),
    "padding on the left": (lambda f: edit(f / "tokenizer_config.json", padding_side="left"), "padding_side: left"),
    "another token that masks": (lambda f: [edit(f / name, mask_token="[UNK]") for name in ("tokenizer_config.json", "special_tokens_map.json")], "mask_token: [UNK]"),
    "no special tokens around a text": (lambda f: edit(f / "tokenizer.json", post_processor={"single": [{"Sequence": {"id": "A", "type_id": 0}}]}), ""),
    "shorter words are unknown": (lambda f: edit(f / "tokenizer.json", model={"max_input_chars_per_word": 50}), ""),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "message"), TEXT_EDITS.values(), ids=TEXT_EDITS)
def test_an_edited_tokenizer_differs(folder, given, plant, message):
    """And the finding says in what."""
    plant(folder)
    claim = claim_about_texts(folder, given)
    assert claim.verdict is Verdict.DIFFERS and message in "\n".join(map(str, claim.findings)), claim


def test_a_vocabulary_that_nobody_vouches_for_is_left_open(folder):
    """Its texts are right; whose words they are nothing says."""
    with pytest.raises(NothingToJudge, match="nothing outside of the folder says whose words they are: pass --tokenizer$"):
        claim_about_texts(folder, None)


def test_flavas_size_with_other_words_differs(tmp_path):
    """bert-base-uncased's are known by their digest."""
    config = deepcopy(DEFAULTS)
    words = tuple(made_up_words(30522))
    write_files(
        tmp_path, {"config.json": {"model_type": "flava"}, **processor_files(config, WHOLE, ChosenTokenizer(Vocabulary(words, ""), "", ""))}
    )
    claim = Claim("tokens")
    judge_tokens(TextEvidence(tmp_path, config, None), claim)
    assert claim.verdict is Verdict.DIFFERS and "not bert-base-uncased's; if the original has these, pass --tokenizer" in str(
        claim.findings[0]
    )


@pytest.mark.peers
def test_the_real_vocabulary_needs_nobody_to_vouch_for_it(tmp_path):
    """Every text is tokenized as the original does."""
    from tests.original.pictures import real_vocabulary, words_of

    words = tuple(words_of(real_vocabulary()))
    write_files(
        tmp_path,
        {"config.json": {"model_type": "flava"}, **processor_files(DEFAULTS, WHOLE, ChosenTokenizer(Vocabulary(words, ""), "", ""))},
    )
    claim = Claim("tokens")
    judge_tokens(TextEvidence(tmp_path, DEFAULTS, None), claim)
    assert claim.verdict is Verdict.PROVEN and "bert-base-uncased's 30,522 words" in claim.summary, claim


@pytest.fixture(scope="module")
def verified(tiny, tmp_path_factory):
    """A conversion with its vocabulary; not to be written to."""
    folder = tmp_path_factory.mktemp("verified") / "out"
    convert_flava_checkpoint(tiny.checkpoint, tiny.codebook, folder, tokenizer=tiny.vocabulary)
    return folder


def verify(run_command, tiny, folder, *options):
    return run_command(
        "verify", "--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook, "--converted_path", folder, *options
    )


def test_verify_proves_the_processor(run_command, tiny, verified):
    """With the original's vocabulary, and from files and sentences to the logits."""
    ran = verify(run_command, tiny, verified, "--tokenizer", tiny.vocabulary)
    assert ran.status == 0 and ran.out.rstrip().endswith("\nverdict: proven"), ran.out
    for claim in ("pixels", "codebook pixels", "tokens", "end to end"):
        assert f"\nproven      {claim} " in ran.out
    exact = "from files and sentences every logit is the original's, relative error 0.0e+00"
    assert ("the processor's pixels move logits by up to " if "pixels             torchvision" in ran.out else exact) in ran.out


def test_verify_without_a_tokenizer_says_so_in_its_last_line(run_command, tiny, verified, tmp_path):
    """And proves the rest."""
    folder = shutil.copytree(verified, tmp_path / "copy")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    ran = verify(run_command, tiny, folder)
    last = ran.out.rstrip().splitlines()[-1]
    assert ran.status == 0 and last == (
        "verdict: proven; not proven: tokens, end to end (there is no tokenizer in the folder; convert --tokenizer puts one there)"
    )
    assert "\nnot proven  tokens " in ran.out and "\nproven      pixels " in ran.out


def test_verify_finds_another_mean(run_command, tiny, verified, tmp_path):
    """By its pixels and by the field; status 1."""
    folder = shutil.copytree(verified, tmp_path / "copy")
    edit(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    ran = verify(run_command, tiny, folder, "--tokenizer", tiny.vocabulary)
    assert ran.status == 1 and "\ndiffers     pixels " in ran.out and "verdict: differs" in ran.out
    assert "preprocessor_config.json: image_mean" in ran.out
