"""torchmultimodal, our reference and the converted transformers model compute the same from the same weights.

Neither we nor Hugging Face wrote torchmultimodal (nightly 2024.4.1). Its weights are converted to its layout by
`flava-port convert --to torchmultimodal`, and from that layout to transformers.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flava_port.original.config import CodebookConfig, FlavaConfig
from tests.builders import from_pretrained
from tests.original.models import ONE_WIDTH
from tests.original.three import (
    CONVERTED,
    OURS,
    THEIRS,
    assert_all_agree,
    build_theirs,
    build_three,
    run_three,
    write_config,
)
from tests.strategies import original_configs

CODEBOOK = CodebookConfig(hidden_size=4, vocab_size=ONE_WIDTH.image_config.vocab_size, num_blocks_per_group=1)

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking a model takes minutes, and the report names the culprit


@st.composite
def models(draw) -> tuple[FlavaConfig, CodebookConfig]:
    """A tiny model whose encoders are of one width, and a codebook of its vocabulary."""
    config = draw(original_configs(one_width=True))
    codebook = CodebookConfig(4, draw(st.integers(1, 2)), 4, config.image_config.vocab_size, draw(st.integers(1, 3)))
    return config, codebook


@settings(max_examples=5, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models(), st.integers(0, 999))
def test_all_three_agree_whatever_the_sizes(torchmultimodal, tmp_path_factory, model, seed):
    """All three agree in every hidden state, embedding, logit, loss and gradient, for random sizes."""
    three = build_three(tmp_path_factory.mktemp("three"), *model, seed, head_eps=1e-12)
    assert_all_agree(run_three(three, seed))


@torch.no_grad()
def test_all_three_codebooks_give_the_same_indices(torchmultimodal, tmp_path):
    """The three codebooks give the same indices; `test_against_dall_e.py` compares with OpenAI's own."""
    three = build_three(tmp_path, ONE_WIDTH, CODEBOOK, 0, head_eps=1e-12)
    ours = three.codebook.codebook_indices(three.codebook_pixels)
    assert torch.equal(three.theirs.image_codebook(three.codebook_pixels), ours)
    assert torch.equal(three.converted.image_codebook.get_codebook_indices(three.codebook_pixels), ours)
    assert len(ours.unique()) > 1, "an index that is the same everywhere shows nothing"


def _spoil_ours(three):
    three.ours.text_encoder.module.encoder.layer[0].layernorm_after.eps = 1e-2


def _spoil_theirs(three):
    three.theirs.loss.mim_loss.cls.layer_norm.eps = 1e-4


def _spoil_converted(three):
    with torch.no_grad():
        three.converted.itm_head.seq_relationship.bias[0] += 0.01


@pytest.mark.parametrize(
    ("spoil", "alone"), [(_spoil_ours, OURS), (_spoil_theirs, THEIRS), (_spoil_converted, CONVERTED)], ids=[OURS, THEIRS, CONVERTED]
)
def test_a_disagreement_names_which_of_the_three_stands_alone(torchmultimodal, tmp_path, spoil, alone):
    """A fault planted in one of the three is reported with the one that stands alone."""
    three = build_three(tmp_path, ONE_WIDTH, CODEBOOK, 0, head_eps=1e-12)
    spoil(three)
    with pytest.raises(AssertionError, match=f"{alone} stands alone"):
        assert_all_agree(run_three(three))


def test_their_own_head_epsilon_is_seen(torchmultimodal, tmp_path):
    """With their epsilon of 1e-5 in the heads, theirs stands alone, in outputs of the heads only."""
    outputs = run_three(build_three(tmp_path, ONE_WIDTH, CODEBOOK, 0, head_eps=1e-5))
    with pytest.raises(AssertionError) as failure:
        assert_all_agree(outputs)
    lines = str(failure.value).splitlines()[1:]
    assert lines and all(f"{THEIRS} stands alone" in line for line in lines), lines
    assert not any("hidden state" in line or "itm" in line or "contrastive" in line for line in lines)


def expected_losses(theirs: torch.nn.Module, inputs: dict) -> dict[str, float]:
    """Every loss of theirs for pairs, images and texts, called as their own tests call the model."""
    found = {}
    with torch.no_grad():
        for embedding in ("mm", "image", "text"):
            losses = theirs(**inputs, required_embedding=embedding).losses
            found |= {name: float(value) for name, value in losses.items() if value is not None}
    return found


def converted_losses(model: torch.nn.Module, inputs: dict, ignored: int) -> dict[str, float]:
    """The same losses of the converted model, with the label ``ignored`` in place of -1."""
    labels = inputs["mlm_labels"].masked_fill(inputs["mlm_labels"] == -1, ignored)
    text = {"input_ids": inputs["text"], "input_ids_masked": inputs["text_masked"]}
    image = {"pixel_values": inputs["image"], "codebook_pixel_values": inputs["image_for_codebook"]}
    image["bool_masked_pos"] = inputs["image_patches_mask"]
    found = {}
    with torch.no_grad():
        for given in (
            {**text, **image, "mlm_labels": labels.clone(), "itm_labels": inputs["itm_labels"]},
            image,
            {**text, "mlm_labels": labels.clone()},
        ):
            losses = model(**given, return_loss=True).loss_info
            found |= {f"{name}_loss": float(value) for name, value in losses.items() if value is not None}
    return found


def their_inputs(config: FlavaConfig, length: int) -> dict:
    """Inputs as in their own tests, for these sizes: two pairs, of which the second matches, with two words masked."""
    image, patches = config.image_config, config.image_config.image_size // config.image_config.patch_size
    text = torch.randint(1, config.text_config.vocab_size, (2, length))
    masked, labels = text.clone(), torch.full_like(text, -1)
    masked[:, 1:3], labels[:, 1:3] = 1, text[:, 1:3]
    return {
        "image": torch.rand(2, image.num_channels, image.image_size, image.image_size),
        "text": text,
        "image_for_codebook": torch.rand(2, 3, 8 * patches, 8 * patches),
        "image_patches_mask": torch.randint(0, 2, (2, patches * patches)),
        "text_masked": masked,
        "itm_labels": torch.tensor([0, 1]),
        "mlm_labels": labels,
    }


def assert_their_losses_come_out(run_command, folder, config, codebook, length, seed) -> None:
    """Asserts that a seeded model of theirs, saved and converted by the command, gives every loss within 1e-4."""
    __tracebackhide__ = True
    torch.manual_seed(seed)
    inputs = their_inputs(config, length)
    theirs = build_theirs(config, codebook)  # with their default epsilon in the heads
    expected = expected_losses(theirs, inputs)
    torch.save(theirs.state_dict(), folder / "theirs.pt")
    del theirs
    out = ["--pytorch_dump_folder_path", folder / "hf", "--config_path", folder / "config.json"]
    if config != FlavaConfig():
        write_config(folder / "config.json", config, codebook)
    ran = run_command("convert", "--checkpoint_path", folder / "theirs.pt", *(out if config != FlavaConfig() else out[:2]))
    assert ran.status == 0, ran.err
    assert "their layer norms had epsilon 1e-05" in ran.out
    model = from_pretrained(folder / "hf")
    for ignored in {-100, model.config.ce_ignore_index}:
        found = converted_losses(model, inputs, ignored)
        assert set(expected) <= set(found) and len(expected) == 6
        for name, value in expected.items():
            assert abs(found[name] - value) < 1e-4, f"{name}: {found[name]}, theirs {value} (labels to ignore {ignored})"


@pytest.mark.parametrize("seed", [4, 1234])
def test_the_losses_of_a_model_of_theirs_come_out_of_the_converted_one(torchmultimodal, run_command, tmp_path, seed):
    """A tiny model that their code initialised gives the same losses when it is converted."""
    image = replace(ONE_WIDTH.image_config, num_channels=3)
    assert_their_losses_come_out(run_command, tmp_path, replace(ONE_WIDTH, image_config=image), CODEBOOK, 9, seed)


@pytest.mark.slow  # the default configuration: a gigabyte, a minute
def test_the_losses_of_a_full_size_model_of_theirs_come_out_of_the_converted_one(torchmultimodal, run_command, tmp_path):
    """A model of flava_model_for_pretraining's sizes gives the same losses when it is converted."""
    assert_their_losses_come_out(run_command, tmp_path, FlavaConfig(), CodebookConfig(), 77, 1234)


@pytest.mark.slow  # three models of the default configuration
def test_all_three_agree_at_full_size(torchmultimodal, tmp_path):
    """At the default size all three agree in every output and gradient."""
    three = build_three(tmp_path, FlavaConfig(), CodebookConfig(), 0, head_eps=1e-12)
    assert_all_agree(run_three(three))
