"""Weights that cannot become the same model stop with exit status 1, naming the key."""

import warnings

import pytest
import torch

from flava_port.conversion import account, plan
from flava_port.errors import InvalidInput
from tests.builders import from_pretrained, tiny_codebook, tiny_state_dict
from tests.refusal import UNFAITHFUL, assert_refused

QUERY = "text_encoder.module.encoder.layer.1.attention.attention.query.weight"
CONVERTED_QUERY = "flava.text_model.encoder.layer.1.attention.attention.query.weight"
LAYER = "image_encoder.module.encoder.layer.1."


def _without(fragment: str):
    return {key: tensor for key, tensor in tiny_state_dict().items() if fragment not in key}


def _with(key: str, change):
    state = tiny_state_dict()
    return state | {key: change(state[key])}


def _another_layer(index: int):
    state = tiny_state_dict()
    new = f"{LAYER.rstrip('.').removesuffix('1')}{index}."
    return state | {key.replace(LAYER, new): tensor for key, tensor in state.items() if LAYER in key}


def _quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def _quantised(tensor):
    return _quietly(torch.quantize_per_tensor, tensor, 0.1, 0, torch.qint8)


STATES = {
    "one missing layer in the middle": (lambda: _without("text_encoder.module.encoder.layer.1."), "encoder.layer.1."),
    "one missing tensor": (lambda: _without(QUERY), QUERY),
    "one missing bias": (lambda: _without("image_projection.bias"), "image_projection.bias"),
    "one layer too many, after a gap": (lambda: _another_layer(3), "encoder.layer.2."),
    "one extra layer, far away": (lambda: _another_layer(40), "encoder.layer."),
    "half a layer": (lambda: _another_layer(2).keys() and {k: v for k, v in _another_layer(2).items() if "layer.2.output" not in k}, "layer.2.output"),
    "one extra tensor": (lambda: tiny_state_dict() | {"heads.cmd.new_head.weight": torch.ones(2)}, "heads.cmd.new_head.weight"),
    "a key misspelt": (lambda: {k.replace("mm_text_projection.bias", "mm_text_projektion.bias"): v for k, v in tiny_state_dict().items()}, "mm_text_projektion.bias"),
    "a transposed matrix": (lambda: _with("mm_text_projection.weight", lambda t: torch.cat([t, t]).T), "mm_text_projection.weight"),
    "a matrix of another size": (lambda: _with(QUERY, lambda t: t[:-1]), QUERY),
    "a scalar where a vector belongs": (lambda: _with("image_projection.bias", lambda t: t[0]), "image_projection.bias"),
    "a vector where a scalar belongs": (
        lambda: _with("heads.cmd.clip_head.logit_scale", lambda t: t.expand(2).clone()),
        "heads.cmd.clip_head.logit_scale",
    ),
    "an empty tensor": (lambda: _with(QUERY, lambda t: t[:0]), QUERY),
    "integer weights": (lambda: _with(QUERY, lambda t: (100 * t).to(torch.int8)), "is int8"),
    "truth values": (lambda: _with(QUERY, lambda t: t > 0), "is bool"),
    "complex weights": (lambda: _with(QUERY, lambda t: t.to(torch.complex64)), "is complex64"),
    "eight-bit floats": (lambda: _with(QUERY, lambda t: t.to(torch.float8_e4m3fn)), "is float8_e4m3fn"),
    "all integer weights": (lambda: {k: (100 * t).to(torch.int32) for k, t in tiny_state_dict().items()}, "is int32"),
    "a sparse tensor": (lambda: _with(QUERY, torch.Tensor.to_sparse), "is a sparse tensor"),
    "a compressed sparse tensor": (lambda: _with(QUERY, lambda t: _quietly(t.to_sparse_csr)), "is a sparse tensor"),
    "a quantised tensor": (lambda: _with(QUERY, _quantised), "is a quantised tensor"),
    "a tensor without values": (lambda: _with(QUERY, lambda t: t.to("meta")), "is a meta (shape without values) tensor"),
    "a negated view": (lambda: _with(QUERY, lambda t: torch.complex(t, -t).conj().imag), "is a conjugated or negated tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "named"), STATES.values(), ids=STATES)
def test_what_no_model_is_equal_to_is_refused_by_key(run_command, tiny, tmp_path, state, named):
    """Nothing is guessed, filled in or left out."""
    try:
        _quietly(torch.save, state(), tmp_path / "odd.pt")
    except KeyError as error:
        pytest.skip(f"torch {torch.__version__} cannot save it ({error}); run under torch 2.2 or later")
    assert named in assert_refused(run_command, tmp_path, UNFAITHFUL, tmp_path / "odd.pt", codebook=tiny.codebook)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_quantised_file_is_refused_in_either_format(run_command, tmp_path, legacy):
    """Quantised tensors have storages of a type of their own."""
    _quietly(lambda: torch.save(_with(QUERY, _quantised), tmp_path / "q.pt", _use_new_zipfile_serialization=not legacy))
    assert QUERY in assert_refused(run_command, tmp_path, UNFAITHFUL, tmp_path / "q.pt")


CODEBOOKS = {
    "missing": (lambda: {k: t for k, t in tiny_codebook().items() if k != "blocks.input.b"}, "blocks.input.b"),
    "extra": (lambda: tiny_codebook() | {"blocks.extra.w": torch.ones(2)}, "blocks.extra.w"),
    "misshapen": (lambda: tiny_codebook() | {"blocks.input.w": torch.ones(8, 3, 5, 5)}, "blocks.input.w"),
    "integer": (lambda: tiny_codebook() | {"blocks.input.w": torch.ones(8, 3, 7, 7).int()}, "is int32"),
    "one group less": (lambda: {k: t for k, t in tiny_codebook().items() if "group_2" not in k}, "group_2"),
}


@pytest.mark.parametrize(("state", "named"), CODEBOOKS.values(), ids=CODEBOOKS)
def test_a_codebook_is_held_to_the_same(run_command, tiny, tmp_path, state, named):
    """Its keys have their names in its file."""
    torch.save(state(), tmp_path / "codebook.pt")
    assert named in assert_refused(run_command, tmp_path, UNFAITHFUL, tiny.checkpoint, codebook=tmp_path / "codebook.pt")


def test_many_problems_are_counted_and_a_few_shown(run_command, tmp_path, monkeypatch):
    """A few problems are listed and the others counted, and the slow search for a nearest key is made for those few only."""
    searches = []
    monkeypatch.setattr(account, "get_close_matches", lambda *arguments, **_: searches.append(arguments) or [])
    extra = {f"image_encoder.module.unknown_{n}.weight": torch.ones(1) for n in range(100)}
    torch.save(tiny_state_dict() | extra, tmp_path / "odd.pt")
    assert "and 94 more" in assert_refused(run_command, tmp_path, UNFAITHFUL, tmp_path / "odd.pt")
    assert len(searches) <= 10


def test_a_layer_number_costs_nothing(run_command, tmp_path, monkeypatch):
    """One key with a high number is refused before a model of so many layers is built, which would take a minute and a gigabyte."""

    def too_late(*_):
        raise InvalidInput("a model of ten thousand layers")

    monkeypatch.setattr(plan, "shapes_for", too_late)
    torch.save(_another_layer(9999), tmp_path / "odd.pt")
    assert "layer.9999" in assert_refused(run_command, tmp_path, UNFAITHFUL, tmp_path / "odd.pt")


def test_nan_and_infinity_are_converted_and_counted(run_command, tmp_path):
    """They are converted as they are, with a warning."""
    state = tiny_state_dict()
    state[QUERY][0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    torch.save(state, tmp_path / "diverged.pt")
    ran = run_command(
        "convert", "--checkpoint_path", tmp_path / "diverged.pt", "--no-codebook", "--pytorch_dump_folder_path", tmp_path / "out"
    )
    assert ran.status == 0, ran.err
    assert f"warning  {CONVERTED_QUERY} holds 3 NaN or infinite values" in ran.out
    loaded = from_pretrained(tmp_path / "out").state_dict()[CONVERTED_QUERY]
    assert torch.equal(loaded.view(torch.int32), state[QUERY].view(torch.int32))


def test_a_float64_value_too_large_for_float32_is_refused(run_command, tmp_path):
    """It would become infinite; the message names `--dtype keep`, which keeps it."""
    state = _with(QUERY, lambda t: t.double().index_fill(0, torch.tensor([0]), 1e300))
    torch.save(state, tmp_path / "large.pt")
    message = assert_refused(run_command, tmp_path, UNFAITHFUL, tmp_path / "large.pt")
    assert QUERY in message and "--dtype keep" in message
