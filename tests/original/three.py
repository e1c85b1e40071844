"""One model in three implementations: torchmultimodal's, our reference, and transformers' after conversion."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flava_port import convert_flava_checkpoint, convert_to_torchmultimodal
from flava_port.files.torch_format import write_torch_zip
from flava_port.files.torch_tensors import load
from flava_port.original.codebook import DalleEncoder
from flava_port.original.config import CodebookConfig, FlavaConfig
from flava_port.original.flava import Flava
from flava_port.original.seeded import seeded_codebook, seeded_state_dict
from flava_port.proof.bounds import GRADIENT_MARGIN, MARGIN
from flava_port.proof.forward import LOGITS, LOSSES, relative_error, run_converted, run_original, states_by_name
from flava_port.proof.scenarios import IGNORED, Scenario
from flava_port.rules.layouts import to_hugging_face, to_torchmultimodal
from flava_port.rules.tables import TORCHMULTIMODAL
from flava_port.target.sizes import config_from_shapes
from tests.builders import from_pretrained

OURS, THEIRS, CONVERTED = "our reference", "torchmultimodal", "transformers"


class Three(NamedTuple):
    """The same weights in three implementations, our codebook, and pixels for it."""

    ours: Flava
    theirs: nn.Module
    converted: nn.Module
    codebook: DalleEncoder
    codebook_pixels: Tensor


def build_theirs(config: FlavaConfig, codebook: CodebookConfig, head_eps: float = 1e-5) -> nn.Module:
    """torchmultimodal's FLAVAForPreTraining of these sizes, with the weights that its own code initialises."""
    from torchmultimodal.models.flava.model import DalleEncoder as TheirEncoder
    from torchmultimodal.models.flava.model import DalleVAEEncoder, FLAVAForPreTraining, flava_model
    from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

    image, text = asdict(config.image_config), asdict(config.text_config)
    sizes = {"text_and_image_proj_size": config.projection_dim}
    sizes |= {name: image[name] for name in ("image_size", "patch_size", "num_channels")}
    sizes |= {name: text[name] for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id")}
    for prefix, part in {"image": image, "text": text, "multimodal": asdict(config.multimodal_config)}.items():
        common = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes |= {f"{prefix}_{name}": part[name] for name in common}
    width = config.multimodal_config.hidden_size
    vocabularies = dict(text_vocab_size=text["vocab_size"], image_vocab_size=image["vocab_size"])
    loss = FLAVAPretrainingLoss(hidden_size=width, layer_norm_eps=head_eps, **vocabularies)
    their_codebook = DalleVAEEncoder(pretrained=False)
    their_codebook.encoder = TheirEncoder(
        n_hid=codebook.hidden_size,
        n_blk_per_group=codebook.num_blocks_per_group,
        input_channels=codebook.input_channels,
        vocab_size=codebook.vocab_size,
    )
    return FLAVAForPreTraining(flava_model(**sizes), their_codebook, loss).eval()


def build_three(folder: Path, config: FlavaConfig, codebook: CodebookConfig, seed: int, head_eps: float) -> Three:
    """All three from one original, which is converted to torchmultimodal's layout, and from there to transformers'."""
    weights, codes = seeded_state_dict(config, seed), seeded_codebook(codebook, seed)
    write_torch_zip(folder / "flava.pt", weights)
    write_torch_zip(folder / "codes.pt", codes)
    write_config(folder / "config.json", config, codebook)
    convert_to_torchmultimodal(folder / "flava.pt", folder / "codes.pt", folder / "theirs.pt")
    convert_flava_checkpoint(folder / "theirs.pt", None, folder / "hf", folder / "config.json")
    theirs = build_theirs(config, codebook, head_eps)
    theirs.load_state_dict(torch.load(folder / "theirs.pt", weights_only=True), strict=True)
    ours, our_codebook = Flava(config), DalleEncoder(codebook)
    ours.load_state_dict({key: load(source) for key, source in weights.items()})
    our_codebook.load_state_dict({key: load(source) for key, source in codes.items()})
    side = 8 * (config.image_config.image_size // config.image_config.patch_size)
    # In the codebook's own range, (0, 1), the biases decide, and every index is the same. So these pixels are far from it.
    pixels = 3 * torch.randn(3, codebook.input_channels, side, side, generator=torch.Generator().manual_seed(seed))
    return Three(ours.eval(), theirs, from_pretrained(folder / "hf"), our_codebook.eval(), pixels)


def write_config(path: Path, config: FlavaConfig, codebook: CodebookConfig) -> None:
    """Writes transformers' config.json, with the numbers of attention heads, which no shape shows."""
    with torch.device("meta"):
        keys = Flava(config).state_dict() | DalleEncoder(codebook).state_dict()
    shapes = {to_hugging_face(key).target: tuple(value.shape) for key, value in keys.items()}
    content, _ = config_from_shapes({target: shape for target, shape in shapes.items() if target})
    for section in ("image_config", "text_config", "multimodal_config"):
        content[section]["num_attention_heads"] = getattr(config, section).num_attention_heads
    path.write_text(json.dumps(content))


def scenarios(three: Three, seed: int) -> list[Scenario]:
    """Three pairs, of which the second does not match, then images and texts alone, all without padding and token types."""
    generator = torch.Generator().manual_seed(seed)
    config = three.ours.config
    image, text = config.image_config, config.text_config
    patches, length = (image.image_size // image.patch_size) ** 2, min(text.max_position_embeddings, 7)
    ids = torch.randint(1, text.vocab_size, (3, length), generator=generator)
    masked = torch.rand(3, length, generator=generator) < 0.4
    masked[:, -1] = True
    masked_patches = torch.rand(3, patches, generator=generator) < 0.4
    masked_patches[:, 0] = True
    inputs = {
        "pixel_values": torch.randn(3, image.num_channels, image.image_size, image.image_size, generator=generator),
        "input_ids": ids,
        "input_ids_masked": ids.masked_fill(masked, 1),
        "bool_masked_pos": masked_patches,
        "mim_labels": three.codebook.codebook_indices(three.codebook_pixels).flatten(1),
        "mlm_labels": ids.masked_fill(~masked, IGNORED),
        "itm_labels": torch.tensor([1, 0, 1]),
    }
    images, texts = ("pixel_values", "bool_masked_pos", "mim_labels"), ("input_ids", "input_ids_masked", "mlm_labels")
    alone = [Scenario(name, {key: inputs[key] for key in keys}) for name, keys in {"images": images, "texts": texts}.items()]
    return [Scenario("pairs", inputs), *alone]


def run_theirs(theirs: nn.Module, scenario: Scenario, codebook_pixels: Tensor) -> dict[str, Tensor]:
    """Every output of torchmultimodal's, by the name that all three share. It ignores the label -1."""
    given = scenario.inputs
    inputs = {"image": given.get("pixel_values"), "text": given.get("input_ids"), "text_masked": given.get("input_ids_masked")}
    inputs |= {"image_patches_mask": given.get("bool_masked_pos"), "skip_unmasked_mm_encoder": False}
    known = {"itm_labels": given.get("itm_labels")}
    if (labels := given.get("mlm_labels")) is not None:
        known["mlm_labels"] = labels.masked_fill(labels == IGNORED, -1)
    if "mim_labels" in given:
        known["image_for_codebook"] = codebook_pixels
    states, out = theirs.model(**inputs), theirs(**inputs, **known)
    found = {f"{name} loss": getattr(out.losses, f"{name}_loss") for name in LOSSES}
    found["total loss"] = torch.stack([loss for loss in found.values() if loss is not None]).sum()
    for name in LOGITS:
        if name.startswith("contrastive"):
            side = "image" if name.endswith("image") else "text"
            found[name] = getattr(out.global_contrastive_output, f"{side}_logits", None)
        else:
            found[name] = getattr(getattr(out, f"{name.removesuffix('_logits')}_output"), "logits", None)
    for name in ("image", "text", "multimodal", "image_masked", "text_masked", "multimodal_masked"):
        if (encoding := getattr(states, name)).last_hidden_state is not None:
            found |= states_by_name(name, encoding.hidden_states, encoding.last_hidden_state, encoding.pooler_output)
    return {name: value for name, value in found.items() if value is not None}


class Outputs(NamedTuple):
    """Everything that the three computed, and the tolerance that rounding needs."""

    found: dict[str, dict[str, Tensor]]  # by implementation, by name
    tolerance: float  # relative


def run_three(three: Three, seed: int = 0) -> Outputs:
    """All outputs, losses and gradients of the three in float32. The reference in float64 gives the noise floor."""
    cases = scenarios(three, seed)
    ours = _everything(three.ours, cases, run_original, lambda name: name)
    theirs = _everything(three.theirs, cases, lambda m, c: run_theirs(m, c, three.codebook_pixels), TORCHMULTIMODAL.source_of)
    of_target = {to_torchmultimodal(name): name for name, _ in three.converted.named_parameters()}
    original_of = {name: TORCHMULTIMODAL.source_of(theirs) for theirs, name in of_target.items()}
    converted = _everything(three.converted, cases, run_converted, original_of.get)
    exact = _everything(three.ours.double(), [_doubled(case) for case in cases], run_original, lambda name: name)
    three.ours.float()
    floor = max(relative_error(ours[name], exact[name]) for name in ours if not name.startswith("gradient"))
    return Outputs({OURS: ours, THEIRS: theirs, CONVERTED: converted}, MARGIN[torch.float32] * max(floor, 2.0**-23))


def _doubled(case: Scenario) -> Scenario:
    return Scenario(case.name, {name: value.double() if value.is_floating_point() else value for name, value in case.inputs.items()})


def _everything(model: nn.Module, cases: list[Scenario], run, original_name) -> dict[str, Tensor]:
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    outputs, losses = {}, []
    for case in cases:
        found = run(model, case)
        losses += [value for name, value in found.items() if name.endswith(" loss") and name != "total loss"]
        outputs |= {f"{case.name}: {name}": value.detach() for name, value in found.items()}
    torch.stack(losses).sum().backward()
    for name, parameter in model.named_parameters():
        original = original_name(name).replace(".predictions.bias", ".predictions.decoder.bias")
        if parameter.grad is not None and not original.startswith("blocks.") and parameter.grad.any():
            outputs[f"gradient of {original}"] = parameter.grad
    model.zero_grad(set_to_none=True)
    return outputs


# The gradient of attention's key.bias is nothing but rounding, because softmax cancels it.
NOTHING_BUT_ROUNDING = ("attention.attention.key.bias",)


def assert_all_agree(outputs: Outputs) -> None:
    """Asserts that every two of the three agree in every output. The report says which of them stands alone."""
    __tracebackhide__ = True
    names = {name for found in outputs.found.values() for name in found if not name.endswith(NOTHING_BUT_ROUNDING)}
    lacking = [f"{who} lacks {name}" for who, found in outputs.found.items() for name in sorted(names - set(found))]
    assert not lacking, "; ".join(lacking[:6])
    problems = [line for name in sorted(names) if (line := _disagreement(name, outputs))]
    assert not problems, "\n".join([f"{len(problems)} of {len(names)} outputs disagree", *problems[:6]])


def _summed(name: str, found: dict[str, Tensor]) -> float:
    """The largest of the numbers whose sum an output is, where they may cancel. Rounding is relative to it.

    The gradient of the contrastive loss for its scale sums every logit times what its probability lacks. Where
    the logits are equal, this sums to nothing.
    """
    if name != "gradient of heads.cmd.clip_head.logit_scale":
        return 0.0
    return float(found["pairs: contrastive_logits_per_image"].abs().max())


def _disagreement(name: str, outputs: Outputs) -> str:
    tolerance = outputs.tolerance * (GRADIENT_MARGIN if name.startswith("gradient") else 1)
    values = {who: found[name] for who, found in outputs.found.items()}
    least = _summed(name, outputs.found[OURS])
    pairs = (OURS, THEIRS), (OURS, CONVERTED), (THEIRS, CONVERTED)
    apart = {(one, other): relative_error(values[one], values[other], least) for one, other in pairs}
    agreeing = [pair for pair, error in apart.items() if error <= tolerance]
    if len(agreeing) == 3:
        return ""
    alone = [who for who in values if len(agreeing) == 1 and who not in agreeing[0]]
    verdict = f"{alone[0]} stands alone" if alone else "no two agree" if not agreeing else "they drift apart"
    distances = ", ".join(f"{one} and {other} {error:.1e}" for (one, other), error in apart.items())
    return f"{name}: {verdict} ({distances} apart; rounding allows {tolerance:.1e})"
