"""Every optional argument of what FLAVA's classes are called by, each used in a circumstance of its own.

What is called, with which arguments, is listed from the installed signatures (`signatures`). An argument that no
circumstance uses is a difference between releases by itself.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .circumstances import Circumstance, Inputs

# What a circumstance calls, and the class and method that this is.
CALLED = {
    "": ("FlavaForPreTraining", "forward"),
    "flava": ("FlavaModel", "forward"),
    "flava.get_image_features": ("FlavaModel", "get_image_features"),
    "flava.get_text_features": ("FlavaModel", "get_text_features"),
    "flava.image_model": ("FlavaImageModel", "forward"),
    "flava.text_model": ("FlavaTextModel", "forward"),
    "flava.multimodal_model": ("FlavaMultimodalModel", "forward"),
    "image_codebook": ("FlavaImageCodebook", "forward"),
    "image_codebook.get_codebook_probs": ("FlavaImageCodebook", "get_codebook_probs"),
    "image_codebook.get_codebook_indices": ("FlavaImageCodebook", "get_codebook_indices"),
}
MODELS = tuple(dict.fromkeys(name for name, _ in CALLED.values()))
LEFT_OUT = object()  # in place of a value: the call is made without this argument


def signatures() -> dict[str, str]:
    """Every argument of every public method that a FLAVA model defines, as ``FlavaModel.forward(position_ids)``, and its default."""
    import transformers

    found = {}
    for name in MODELS:
        for method, function in inspect.getmembers(getattr(transformers, name), inspect.isfunction):
            if method == "__init__" or (function.__qualname__.startswith(name) and not method.startswith("_")):
                for argument in inspect.signature(function).parameters.values():
                    if argument.name != "self":
                        found[f"{name}.{method}({argument.name})"] = _default(argument)
    return found


def _default(argument: inspect.Parameter) -> str:
    if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
        return "any"
    return "needed" if argument.default is argument.empty else repr(argument.default)


def used_arguments(cases: list[Circumstance]) -> set[str]:
    """The arguments that circumstances use, named as in `signatures`."""
    return {
        f"{name}.{method}({argument})"
        for case in cases
        for name, method in [CALLED[case.called]]
        for argument in (*case.inputs, *case.options)
    }


def with_arguments() -> Iterator[Circumstance]:
    """Each argument with each of its values, and every call with gradients of what it answers."""
    of = Inputs()
    for called, (name, method) in CALLED.items():
        call = name if method == "forward" else method
        base, values = _call(called, of)
        yield Circumstance(
            f"{call}, gradients of what it answers", **_split(base), called=called, judged_by=None, gradients_of_answers=True
        )
        for argument, choices in values.items():
            for label, value in choices.items():
                given = {key: item for key, item in {**base, argument: value}.items() if item is not LEFT_OUT}
                yield Circumstance(f"{call}, {argument} {label}", **_split(given), called=called, judged_by=None)


def _split(arguments: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    return {"inputs": tensors, "options": {name: value for name, value in arguments.items() if name not in tensors}}


Choices = dict[str, dict[str, Any]]


def _call(called: str, of: Inputs) -> tuple[dict[str, Any], Choices]:
    """What a call is made with, and for each argument the values to try, by their labels."""
    images, texts = {"pixel_values": of.images["pixel_values"]}, {"input_ids": of.texts["input_ids"]}
    calls: dict[str, Callable[[], tuple[dict[str, Any], Choices]]] = {
        "": lambda: ({**of.pairs, "return_loss": False}, _of_pretraining(of)),
        "flava": lambda: ({**images, **texts}, _of_model(of)),
        "flava.get_image_features": lambda: (images, _of_images(of) | _OF_ENCODERS),
        "flava.get_text_features": lambda: (texts, _of_texts(of) | _OF_ENCODERS),
        "flava.image_model": lambda: (images, _of_images(of) | _OF_ENCODERS),
        "flava.text_model": lambda: (texts, _of_texts(of) | _OF_ENCODERS),
        "flava.multimodal_model": lambda: (dict(of.states), _of_states(of) | _OF_ENCODERS),
        "image_codebook": lambda: (dict(of.codebook_alone), _of_codebook(of)),
        "image_codebook.get_codebook_probs": lambda: (dict(of.codebook_alone), {}),
        "image_codebook.get_codebook_indices": lambda: (dict(of.codebook_alone), {}),
    }
    return calls[called]()


_OUTPUTS: Choices = {
    "output_attentions": {"on": True},
    "output_hidden_states": {"on": True, "off": False},
    "return_dict": {"off": False},
}


_OF_ENCODERS: Choices = {
    **_OUTPUTS,
    "head_mask": {"of one head": torch.tensor([1.0, 0.0])},  # up to transformers 4
}


def _masks(mask: Tensor) -> dict[str, Tensor]:
    """A mask of padding [texts, tokens] in every form that transformers' models take."""
    square = mask[:, None, :] * mask[:, :, None]
    additive = (1.0 - mask[:, None, None].double()) * -1e4
    forms = {"of integers": mask, "of booleans": mask.bool(), "of floats": mask.double(), "of float32": mask.float()}
    return {
        **forms,
        "of each token's own": square,
        "for each head": mask[:, None, None],
        "to be added": additive,
        "of nothing": torch.zeros_like(mask),
    }


def _positions(of: Inputs) -> dict[str, Tensor]:
    length = of.texts["input_ids"].shape[1]
    return {"reversed": torch.arange(length).flip(0)[None], "for each text": torch.stack([torch.arange(length).roll(n) for n in range(3)])}


def _patches(of: Inputs) -> dict[str, Any]:
    masked = of.images["bool_masked_pos"]
    side = int(masked.shape[1] ** 0.5)
    forms: dict[str, Any] = {"in rows": masked.view(-1, side, side), "of integers": masked.long(), "of floats": masked.double()}
    return {**forms, "of none": torch.zeros_like(masked), "of all": torch.ones_like(masked)}


def _image_mask(of: Inputs) -> dict[str, Tensor]:
    patches = of.images["bool_masked_pos"].shape[1] + 1
    seen = torch.arange(patches) < torch.tensor([[patches], [6], [3]])
    return {"to be added": torch.where(seen, 0.0, -1e4).double()[:, None, None], "in two dimensions": seen.long()}


def _of_texts(of: Inputs) -> Choices:
    padded = of.padding["attention_mask"]
    with_pads = of.texts["input_ids"].masked_fill(padded == 0, 0)
    ids = {
        "left out": LEFT_OUT,
        "that end in padding": with_pads,
        "that are short": of.texts["input_ids"][:, :5],
        "that are too long": of.texts["input_ids"].repeat(1, 2),
        "of one text": of.texts["input_ids"][:1],
    }
    return {
        "input_ids": ids,
        "attention_mask": _masks(padded),
        "token_type_ids": {"given": of.token_types["token_type_ids"]},
        "position_ids": _positions(of),
    }


def _of_images(of: Inputs) -> Choices:
    pixels = of.images["pixel_values"]
    of_another_size = {"flat": of.flat_images["pixel_values"], "narrow": of.narrow_images["pixel_values"]}
    return {
        "pixel_values": {"left out": LEFT_OUT, "of one image": pixels[:1], "of one channel": pixels[:, :1], **of_another_size},
        "bool_masked_pos": {"of booleans": of.images["bool_masked_pos"], **_patches(of)},
        "interpolate_pos_encoding": {"on": True, "off": False},
        "attention_mask": _image_mask(of),
    }


def _of_states(of: Inputs) -> Choices:
    states = of.states["hidden_states"]
    return {
        "hidden_states": {"of one pair": states[:1], "that are short": states[:, :2]},
        "attention_mask": _masks(of.states_mask["attention_mask"]),
    }


def _of_codebook(of: Inputs) -> Choices:
    pixels = of.codebook_alone["pixel_values"]
    return {
        "pixel_values": {
            "of one image": pixels[:1],
            "in three dimensions": pixels[0],
            "of one channel": pixels[:, :1],
            "not square": pixels[..., :16],
        }
    }


def _of_model(of: Inputs) -> Choices:
    texts, images = _of_texts(of), _of_images(of)
    return {
        **texts,
        "pixel_values": images["pixel_values"],
        "bool_masked_pos": images["bool_masked_pos"],
        "image_attention_mask": _image_mask(of),
        "skip_multimodal_encoder": {"on": True, "off": False},
        **_OUTPUTS,
    }


def _of_pretraining(of: Inputs) -> Choices:
    return {
        **{
            name: choices for name, choices in _of_model(of).items() if name not in ("input_ids", "pixel_values", "skip_multimodal_encoder")
        },
        "input_ids_masked": {"left out": LEFT_OUT},
        "codebook_pixel_values": {"given": of.codebook_images["codebook_pixel_values"]},
        "skip_unmasked_multimodal_encoder": {"on": True, "off": False},
        "bool_masked_pos": {"left out": LEFT_OUT, **_patches(of)},
        "mim_labels": {"given": of.mim["mim_labels"]},
        "mlm_labels": {"given": of.mlm["mlm_labels"]},
        "itm_labels": {"given": torch.tensor([1, 0, 1]), "of none": torch.tensor([0, 0, 0])},
        "return_loss": {"on": True, "left out": LEFT_OUT},
    }
