"""Mutants of transformers' FLAVA, made in memory: each changes what the converted model computes, and no weight."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch

from flava_port.proof import sides


def edited(change: Callable) -> AbstractContextManager:
    """Within this context, ``change`` is applied to every model that the proof loads to run it."""
    load_model = sides.unloaded_model

    def load(folder: Path):
        model, version = load_model(folder)
        change(model)
        return model, version

    return mock.patch.object(sides, "unloaded_model", load)


def set_epsilon(model) -> None:
    model.flava.text_model.encoder.layer[1].layernorm_after.eps = 1e-6


def set_activation(model) -> None:
    model.flava.image_model.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()


def set_head_epsilon(model) -> None:
    model.mmm_image_head.transform.LayerNorm.eps = 1e-5


def set_attention_scale(model) -> None:
    query = model.flava.multimodal_model.encoder.layer[0].attention.attention.query
    query.register_forward_hook(lambda _module, _inputs, output: output * math.sqrt(2))


def shift_positions(model) -> None:
    embeddings = model.flava.text_model.embeddings.position_embeddings
    embeddings.register_forward_pre_hook(lambda _module, inputs: (inputs[0].roll(1, -1),))


def ignore_the_mask(model) -> None:
    for layer in model.flava.text_model.encoder.layer:
        layer.attention.register_forward_pre_hook(lambda _m, _i, kwargs: (_i, {**kwargs, "attention_mask": None}), with_kwargs=True)


def pool_another_token(model) -> None:
    model.itm_head.pooler.register_forward_pre_hook(lambda _module, inputs: (inputs[0].roll(1, 1),))


def bend_gradients(model) -> None:
    layer = model.flava.multimodal_model.encoder.layer[0].output.dense
    layer.register_full_backward_hook(lambda _module, inputs, _outputs: (inputs[0] * 1.01,))


def _in_the_masked_pass(model, context: Callable[[], AbstractContextManager]) -> None:
    """Every second time that the multimodal encoder runs, it runs in the context."""
    encoder, count = model.flava.multimodal_model, [0]
    own = encoder.forward

    def forward(*args, **kwargs):
        count[0] += 1
        with context() if count[0] % 2 == 0 else nullcontext():
            return own(*args, **kwargs)

    encoder.forward = forward


def round_the_masked_pass(model) -> None:
    _in_the_masked_pass(model, lambda: torch.autocast("cpu", torch.bfloat16))


def set_epsilon_in_the_masked_pass(model) -> None:
    norms = [layer.layernorm_after for layer in model.flava.multimodal_model.encoder.layer]

    @contextmanager
    def another_epsilon():
        for norm in norms:
            norm.eps = 1e-2
        try:
            yield
        finally:
            for norm in norms:
                norm.eps = 1e-12

    _in_the_masked_pass(model, another_epsilon)


def remember_by_shape(model) -> None:
    """The attention of images gives for an input what it gave for the first one of its shape."""
    for layer in model.flava.image_model.encoder.layer:
        attention, known = layer.attention.attention, {}

        def forward(x, *args, own=attention.forward, known=known, **kwargs):
            if x.shape not in known:
                known[x.shape] = own(x, *args, **kwargs)
            return known[x.shape]

        attention.forward = forward
