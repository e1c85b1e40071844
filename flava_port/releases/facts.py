"""Facts about the installed FLAVA that are no tensors: what can be called, how configs are read, what its answers are made of."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..target.schema import flat
from .arguments import MODELS, signatures
from .circumstances import Inputs
from .runs import said
from .small_model import AS_IT_IS, build_model, new_model, small_config

if TYPE_CHECKING:
    from torch import nn

Facts = dict[str, Any]

SECTIONS = {
    "image_config": "FlavaImageConfig",
    "text_config": "FlavaTextConfig",
    "multimodal_config": "FlavaMultimodalConfig",
    "image_codebook_config": "FlavaImageCodebookConfig",
}
_ATTRIBUTES = ("base_model_prefix", "main_input_name", "supports_gradient_checkpointing")


def tried(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns, or the type of the error that stops it."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # whatever a release raises is what is to be observed
        return f"stops with {said(error).partition(':')[0]}"


def fields_of(config: Mapping[str, Any], start: str) -> Facts:
    """Every field of a config as it is written, but for the release and the place that it was made in."""
    made_in = ("transformers_version", "_name_or_path")
    own = {field: value for field, value in flat(config).items() if not field.endswith(made_in) and tempfile.gettempdir() not in str(value)}
    return {f"{start}: {field}": value for field, value in own.items()}


def observe_interface() -> Facts:
    """Public names, arguments with their defaults, what classes say of themselves, and the parts of each answer."""
    import transformers

    found: Facts = {f"transformers.{name}": "there" for name in dir(transformers) if name.startswith("Flava")}
    arguments = tried(signatures)
    found |= arguments if isinstance(arguments, dict) else {"signatures": arguments}
    for name in MODELS:
        of = getattr(transformers, name, None)
        found |= {f"{name}.{attribute}": str(getattr(of, attribute, None)) for attribute in _ATTRIBUTES}
    return found | dict(_of_models())


def _of_models() -> Iterator[tuple[str, Any]]:
    """What a model says of itself, and what its calls answer with: the class and its fields, in order."""
    of = Inputs()
    model = tried(build_model, AS_IT_IS)
    if isinstance(model, str):
        yield "the small model", model
        return
    yield "buffers", sorted(f"{name}: {value.dtype}" for name, value in model.named_buffers())
    # which the state dict of an optimizer relies on
    yield "order of parameters", hashlib.sha256("\n".join(name for name, _ in model.named_parameters()).encode()).hexdigest()[:12]
    for name, section in (
        ("FlavaImageModel", "image_config"),
        ("FlavaTextModel", "text_config"),
        ("FlavaMultimodalModel", "multimodal_config"),
    ):
        yield f"{name} without a pooling layer", tried(_without_pooling, name, section)
    yield "parameters without a gradient where freeze is off", tried(_frozen_of, ("image_codebook_config.freeze", False))
    images, texts = {"pixel_values": of.images["pixel_values"]}, {"input_ids": of.texts["input_ids"]}
    calls: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
        ("FlavaForPreTraining", model, of.pairs | of.mim | of.mlm),
        ("FlavaModel", model.flava, images | texts),
        ("FlavaImageModel", model.flava.image_model, images),
        ("FlavaTextModel", model.flava.text_model, texts),
        ("FlavaMultimodalModel", model.flava.multimodal_model, of.states),
        ("FlavaImageCodebook", model.image_codebook, of.codebook_alone),
    )
    for name, module, inputs in calls:
        given = {key: value.to(next(module.parameters()).dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        yield f"what {name} answers", tried(_parts, module, given)
        yield f"what {name} answers as a tuple", tried(_parts, module, {**given, "return_dict": False})
        yield f"what {name}'s answer is as a tuple", tried(_parts, module, given, as_tuple=True)
        yield f"{name}.get_input_embeddings()", tried(_input_embeddings, module)
        yield f"{name}'s module types", sorted({type(part).__name__ for part in module.modules()})


def parts_of(answer: object) -> str:
    """The class of an answer, its parts and theirs: ``FlavaModelOutput(image_embeddings: Tensor, ...)``."""
    name = type(answer).__name__
    if isinstance(answer, Mapping):
        return f"{name}({', '.join(f'{key}: {parts_of(value)}' for key, value in answer.items())})"
    if isinstance(answer, tuple | list):
        return f"{name}({', '.join(map(parts_of, answer))})"
    return name


def _frozen_of(field: tuple[str, Any]) -> int:
    return sum(not value.requires_grad for value in new_model((field,)).parameters())


def _read_from_a_folder(config: Any) -> Facts:
    """What each class of configs reads of a whole model's folder."""
    import transformers

    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        config.save_pretrained(folder)
        return {
            f"{name}.from_pretrained": tried(_in_short_from, getattr(transformers, name), folder)
            for name in (*SECTIONS.values(), "FlavaConfig", "AutoConfig")
        }


def _in_short_from(config_class: Any, folder: str) -> str:
    return _in_short(config_class.from_pretrained(folder))


def _without_pooling(name: str, section: str) -> list[str]:
    import transformers

    config = getattr(transformers.FlavaConfig.from_dict(small_config()), section)
    return sorted({key.split(".")[0] for key in getattr(transformers, name)(config, add_pooling_layer=False).state_dict()})


def _parts(model: "nn.Module", inputs: Mapping[str, Any], *, as_tuple: bool = False) -> str:
    answer = model(**inputs)
    return parts_of(answer.to_tuple() if as_tuple else answer)


def _input_embeddings(model: Any) -> str:
    wanted = model.get_input_embeddings()
    return next((name for name, module in model.named_modules() if module is wanted), "no module of it")


def observe_configs() -> Facts:
    """How a config is read in every form in which people give it, what it says of itself, and what is refused."""
    import transformers

    found: Facts = {}
    for section, class_name in SECTIONS.items():
        given = {"hidden_size": 40, "initializer_range": 0.5}
        forms: dict[str, dict[str, Any]] = {
            f"{section}_dict": {f"{section}_dict": given},
            section: {section: given},
            f"{section} an object": {section: tried(_made, class_name, given)},
            f"{section} and {section}_dict": {section: {"hidden_size": 48, "vocab_size": 9}, f"{section}_dict": given},
            f"{section}_dict empty": {f"{section}_dict": {}},
            f"{section} None": {section: None},
        }
        for name, options in forms.items():
            found[f"FlavaConfig({name})"] = tried(_section, section, options)
        found[f"{class_name}.model_type"] = str(getattr(getattr(transformers, class_name, None), "model_type", None))
        found[f"{class_name} of an unknown field"] = tried(_keeps_unknown_fields, class_name)
    wrong: dict[str, Any] = {"text_config": 3, "mim_weight": 1, "hidden_size": "wide", "no_such": 3, "layer_norm_eps": 1}
    for field, value in wrong.items():
        found[f"FlavaConfig({field}={value!r})"] = tried(_field_as_read, field, value)
    found["heads that do not divide"] = tried(_builds, ("text_config.num_attention_heads", 3))
    return found | _round_trips()


def _made(class_name: str, fields: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, class_name)(**fields)


def _section(section: str, options: Mapping[str, Any]) -> str:
    import transformers

    return _in_short(getattr(transformers.FlavaConfig(**options), section))


def _keeps_unknown_fields(class_name: str) -> bool:
    import transformers

    return bool(getattr(transformers, class_name)(no_such=3).no_such == 3)


def _field_as_read(field: str, value: Any) -> str:
    import transformers

    return str(getattr(transformers.FlavaConfig(**{field: value}), field))[:40]


def _builds(field: tuple[str, Any]) -> str:
    return type(new_model((field,))).__name__


def _in_short(config: Any) -> str:
    """The fields by which the forms can be told apart."""
    fields = ("hidden_size", "initializer_range", "vocab_size", "num_hidden_layers", "layer_norm_eps")
    return f"{type(config).__name__}({', '.join(f'{name}={getattr(config, name, None)}' for name in fields)})"


def _round_trips() -> Facts:
    import transformers

    config = tried(transformers.FlavaConfig.from_dict, small_config())
    if isinstance(config, str):
        return {"the small model's config": config}
    written = tried(lambda: json.loads(config.to_json_string()))
    again = tried(lambda: transformers.FlavaConfig.from_dict(config.to_dict()).to_dict() == config.to_dict())
    folder_of = tried(_read_from_a_folder, config)
    return {
        **(folder_of if isinstance(folder_of, dict) else {"from a folder": folder_of}),
        "get_text_config()": tried(lambda: type(config.get_text_config()).__name__),
        "to_dict, from_dict": f"the same: {again}",
        "the model type that AutoConfig reads": tried(lambda: type(transformers.AutoConfig.for_model("flava")).__name__),
        **(fields_of(written, "config.json") if isinstance(written, dict) else {"config.json": written}),
    }
