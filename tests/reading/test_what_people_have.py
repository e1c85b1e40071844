"""Each row of README's table of what is read, with a file that the real library made: converted bit for bit, or refused with the words that help."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.builders import TINY, TINY_CODEBOOK, TinyFiles, from_pretrained, tiny_state_dict
from tests.comparing import assert_same_tensors
from tests.files.two_ranks import as_module
from tests.original.peers import stand_in_for_torchvision
from tests.reading.found import hugging_face
from tests.readme import section
from tests.refusal import assert_refused
from tests.rules.grammar import tiny_torchmultimodal

pytestmark = pytest.mark.peers

GET_LIBRARIES = "tox -e peers runs it; the extra flava-port[peers] has the library"


@dataclass(frozen=True)
class Have:
    """What somebody has: the files on the disk, where new ones go, and the same model as transformers loads it."""

    tiny: TinyFiles
    converted: Path
    folder: Path

    def model(self) -> nn.Module:
        return from_pretrained(self.converted)

    def save(self, content: object) -> Path:
        torch.save(content, self.folder / "theirs.pt")
        return self.folder / "theirs.pt"


# What is passed to `convert`: a path and more flags.
Given = tuple[Path, list[str | Path]]


def torch_file(have: Have) -> Given:
    return have.tiny.checkpoint, ["--codebook_path", have.tiny.codebook]


def legacy_torch_file(have: Have) -> Given:
    torch.save(tiny_state_dict(), have.folder / "old.pt", _use_new_zipfile_serialization=False)
    return have.folder / "old.pt", ["--codebook_path", have.tiny.codebook]


def safetensors_file(have: Have) -> Given:
    save_file({key: tensor.clone() for key, tensor in tiny_state_dict().items()}, have.folder / "flava.safetensors")
    return have.folder / "flava.safetensors", ["--codebook_path", have.tiny.codebook]


def lightning_checkpoint(have: Have) -> Given:
    """After a step, with hyperparameters of omegaconf, an optimizer and a callback's state."""
    lightning = pytest.importorskip("lightning.pytorch", reason=GET_LIBRARIES)
    omegaconf = pytest.importorskip("omegaconf", reason=GET_LIBRARIES)

    class Module(lightning.LightningModule):
        def __init__(self, settings: object, model: nn.Module) -> None:
            super().__init__()
            self.save_hyperparameters("settings")
            self.model = model

        def training_step(self, _batch: object, _index: int) -> torch.Tensor:
            return self.model.flava.logit_scale.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.0, weight_decay=0.0)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", default_root_dir=have.folder, **quiet)
    settings = omegaconf.OmegaConf.create({"rate": 1e-3, "sizes": [1, 2], "none": None})
    trainer.fit(Module(settings, have.model()), torch.utils.data.DataLoader([1, 2]))
    trainer.save_checkpoint(have.folder / "last.ckpt")
    return have.folder / "last.ckpt", []


def trainers_file(have: Have) -> Given:
    """Under a name of the trainer's, with its optimizer, its generators and its settings."""
    module = as_module(tiny_state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    beside = {"optimizer": optimizer.state_dict(), "whole optimizer": optimizer, "rng": torch.get_rng_state(), "epoch": 3}
    return have.save({"net": module.state_dict(), **beside}), ["--codebook_path", have.tiny.codebook]


def wrapped_model(have: Have) -> Given:
    """Compiled, averaged, in DataParallel, in a student."""
    student = nn.Module()
    student.student = torch.optim.swa_utils.AveragedModel(nn.DataParallel(torch.compile(as_module(tiny_torchmultimodal()))))
    return have.save(student.state_dict()), []


def pickled_module(have: Have) -> Given:
    """torchmultimodal's own FLAVAForPreTraining, whole, in DataParallel."""
    with stand_in_for_torchvision():
        pytest.importorskip("torchmultimodal", reason=GET_LIBRARIES)
        from tests.original.three import build_theirs

        theirs = build_theirs(TINY, TINY_CODEBOOK)
        theirs.load_state_dict(tiny_torchmultimodal())
        return have.save(nn.DataParallel(theirs)), []


def distributed_checkpoint(have: Have) -> Given:
    """As one process saves it; `tests/files/test_distributed_checkpoints.py` has two, FSDP2 and any grid of chunks."""
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save({"model": tiny_state_dict(), "epoch": 3}, checkpoint_id=have.folder / "saved")
    return have.folder / "saved", ["--codebook_path", have.tiny.codebook]


def transformers_shards(have: Have) -> Given:
    have.model().save_pretrained(have.folder / "shards", max_shard_size="200KB")
    assert len(list((have.folder / "shards").glob("*-of-*"))) > 2
    return have.folder / "shards", []


def accelerate_shards(have: Have) -> Given:
    accelerate = pytest.importorskip("accelerate", reason=GET_LIBRARIES)
    accelerate.Accelerator(cpu=True).save_model(have.model(), str(have.folder / "shards"), max_shard_size="200KB", safe_serialization=False)
    assert len(list((have.folder / "shards").glob("*-of-*.bin"))) > 2
    return have.folder / "shards", []


CONVERTED: dict[str, list[Callable[[Have], Given]]] = {
    "one file of PyTorch's, zipped or legacy, or of safetensors": [torch_file, legacy_torch_file, safetensors_file],
    "a trainer's file: Lightning's, or a dict with the model under any name": [lightning_checkpoint, trainers_file],
    "keys behind wrappers and prefixes: DDP, FSDP, `torch.compile`, averages, `student.`": [wrapped_model],
    "a whole module, saved with `torch.save(model)`": [pickled_module],
    "a folder of `torch.distributed.checkpoint`, of any number of ranks": [distributed_checkpoint],
    "a folder of shards with an index, in the original's, torchmultimodal's or transformers' keys": [
        transformers_shards,
        accelerate_shards,
    ],
}


@pytest.fixture
def have(tiny, converted, tmp_path):
    return Have(tiny, converted, tmp_path)


def each(rows: dict) -> list:
    return [pytest.param(make, id=make.__name__.replace("_", " ")) for makers in rows.values() for make in makers]


@contextmanager
def no_warnings_of_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("make", each(CONVERTED))
def test_it_converts_to_the_same_bits(have, run_command, make):
    """Every weight of the folder is the one that went in, and nothing of the file is run."""
    with no_warnings_of_libraries():
        path, more = make(have)
    ran = run_command("convert", "--checkpoint_path", path, *more, "--pytorch_dump_folder_path", have.folder / "out")
    assert ran.status == 0, ran.err
    assert_same_tensors(load_file(have.folder / "out" / "model.safetensors"), load_file(have.converted / "model.safetensors"))


def classifier_of_torchmultimodal(have: Have) -> Path:
    """Meta's class, with a classifier of three layers."""
    with stand_in_for_torchvision():
        pytest.importorskip("torchmultimodal", reason=GET_LIBRARIES)
        from torchmultimodal.models.flava.model import FLAVAForClassification
        from torchmultimodal.modules.layers.mlp import MLP

        from tests.original.three import build_theirs

        theirs = build_theirs(TINY, TINY_CODEBOOK)
        theirs.load_state_dict(tiny_torchmultimodal())
        classifier = MLP(in_dim=TINY.multimodal_config.hidden_size, out_dim=3, hidden_dims=[8])
        return have.save(FLAVAForClassification(theirs.model, classifier, nn.CrossEntropyLoss()).state_dict())


def flava_model_with_a_head(have: Have) -> Path:
    """transformers' FlavaModel in a module of the user's own."""
    model = nn.Module()
    model.flava, model.head = have.model().flava, nn.Linear(TINY.multimodal_config.hidden_size, 3)
    return have.save(model.state_dict())


FINE_TUNED = {"a fine-tuned model: encoders with a head of your own": [classifier_of_torchmultimodal, flava_model_with_a_head]}


@pytest.mark.parametrize("make", each(FINE_TUNED))
def test_the_encoders_convert_as_the_first_message_says(have, run_command, make):
    """It names the head's keys and the flags; with those flags the encoders convert, bit for bit, and the record has what was left out."""
    with no_warnings_of_libraries():
        path = make(have)
    base = ["convert", "--checkpoint_path", path, "--pytorch_dump_folder_path", have.folder / "out"]
    ran = run_command(*base)
    assert ran.status == 1 and re.search(r"head\.weight|classifier\.", ran.err), ran.err
    flags = re.findall(r"--part model|--drop '?[\w.*]+'?", ran.err)
    words = [word.strip("'") for flag in flags for word in flag.split()]
    ran = run_command(*base, *words)
    assert ran.status == 0 and "for FlavaModel" in ran.out, f"{words}: {ran.err}"
    expected = {key.removeprefix("flava."): value for key, value in hugging_face().items() if key.startswith("flava.")}
    actual = load_file(have.folder / "out" / "model.safetensors")
    if "logit_scale" not in torch.load(path, weights_only=True) and make is classifier_of_torchmultimodal:
        expected["logit_scale"] = actual["logit_scale"]  # Meta's encoders have none; convert makes FLAVA's
    assert_same_tensors(actual, expected)


def peft_adapter(have: Have) -> Path:
    _peft(have).save_pretrained(have.folder / "adapter")
    return have.folder / "adapter" / "adapter_model.safetensors"


def peft_folder(have: Have) -> Path:
    return peft_adapter(have).parent


def peft_model(have: Have) -> Path:
    return have.save(_peft(have).state_dict())


def _peft(have: Have) -> nn.Module:
    peft = pytest.importorskip("peft", reason=GET_LIBRARIES)
    return peft.get_peft_model(have.model().flava, peft.LoraConfig(target_modules=["query", "value"]))


def optimizer_state(have: Have) -> Path:
    return have.save(torch.optim.AdamW(as_module(tiny_state_dict()).parameters()).state_dict())


def git_lfs_pointer(have: Have) -> Path:
    path = have.folder / "flava.pt"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234567\n")
    return path


def html_page(have: Have) -> Path:
    path = have.folder / "flava.pt"
    path.write_text("<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n")
    return path


def emptied_model(have: Have) -> Path:
    """As DeepSpeed's ZeRO of stage 3 writes a model's own file: its weights have no elements."""
    return have.save({"module": {key: torch.empty(0) for key in tiny_state_dict()}, "ds_version": "0.15"})


REFUSED: dict[str, tuple[str, list[Callable[[Have], Path]]]] = {
    "a PEFT adapter, or a model with one in it": ("merge_and_unload", [peft_adapter, peft_folder, peft_model]),
    "ZeRO's parts of DeepSpeed": ("zero_to_fp32", [emptied_model]),
    "an optimizer's state": ("optimizer", [optimizer_state]),
    "a Git LFS pointer": ("git lfs pull", [git_lfs_pointer]),
    "an HTML page": ("HTML page", [html_page]),
}


@pytest.mark.parametrize(("words", "make"), [pytest.param(w, m, id=m.__name__.replace("_", " ")) for w, ms in REFUSED.values() for m in ms])
def test_it_is_called_by_its_name(have, run_command, words, make):
    """One message, with the words that help, and nothing is left behind."""
    with no_warnings_of_libraries():
        path = make(have)
    assert words in assert_refused(run_command, have.folder, 2, path)


def test_a_merged_adapter_converts(have, run_command):
    """What the refusal tells the user to do leads to the goal."""
    with no_warnings_of_libraries():
        _peft(have).merge_and_unload().save_pretrained(have.folder / "merged")
    ran = run_command("convert", "--checkpoint_path", have.folder / "merged", "--pytorch_dump_folder_path", have.folder / "out")
    assert ran.status == 0 and "for FlavaModel" in ran.out, ran.err


def test_the_table_of_the_readme_has_these_rows():
    """What it says is read or refused is what is tested here."""
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section("what is read").splitlines()[2:]]
    assert rows == [*CONVERTED, *FINE_TUNED, *REFUSED]
