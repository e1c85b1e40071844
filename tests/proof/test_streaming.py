"""A proof of the computation takes memory for a block of each model, says what it has shown when it is stopped, and what it needs before."""

import os
import signal
import subprocess
import sys
import weakref

import pytest
import torch

from benchmarks.sizes import SIZES, make
from flava_port import convert_flava_checkpoint
from flava_port.files.torch_tensors import MemoryTensor
from flava_port.original.seeded import made_up_words, seeded_codebook, seeded_state_dict
from flava_port.proof import blocks, memory, streamed
from flava_port.proof.calls import Recorder
from flava_port.proof.matrices import Factors
from flava_port.proof.sides import Sides
from flava_port.proof.streamed import StreamedBlock, Weight
from flava_port.proof.whole import memory_for
from flava_port.target.config import read_config
from flava_port.verify import verify_flava_checkpoint


@pytest.fixture
def flags(tiny, converted):
    """Flags of `verify` for a clean folder."""
    files = {"checkpoint_path": tiny.checkpoint, "codebook_path": tiny.codebook, "converted_path": converted}
    return [part for name, path in files.items() for part in (f"--{name}", path)]


@pytest.mark.parametrize("size", ["small", "large"])
def test_weights_of_no_more_than_a_block_of_each_model_are_in_memory(tiny, converted, monkeypatch, request, size):
    """Beside what stands between the blocks; whatever the size."""
    if size == "large":
        request.getfixturevalue("taken_for_large")
    alive, most, largest = [0], [0], [0]
    load_weight, load_block = Weight.load, StreamedBlock.load

    def weight(self, *arguments):
        tensor = load_weight(self, *arguments)
        alive[0] += tensor.nbytes
        most[0] = max(most)
        most.append(alive[0])
        weakref.finalize(tensor, lambda size=tensor.nbytes: alive.__setitem__(0, alive[0] - size))
        return tensor

    def block(self, *arguments):
        tensors = load_block(self, *arguments)
        largest[0] = max(largest[0], sum(tensor.nbytes for tensor in tensors))
        return tensors

    monkeypatch.setattr(Weight, "load", weight)
    monkeypatch.setattr(StreamedBlock, "load", block)
    verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, tokenizer=tiny.vocabulary)
    assert 0 < max(most) < 2.1 * largest[0]


@pytest.mark.usefixtures("taken_for_large")
def test_no_gradient_of_a_large_matrix_is_whole(tiny, converted, monkeypatch):
    """All are kept as factors, but for tables in which rows are looked up, whose gradients are sparse."""
    compare, kinds = blocks.size_and_distance, {}

    def compared(ours, theirs):
        if len(ours.shape) == 2:
            kinds.setdefault("factors" if isinstance(ours, Factors) else "sparse" if ours.is_sparse else "whole", set()).add(ours.shape)
        return compare(ours, theirs)

    monkeypatch.setattr(blocks, "size_and_distance", compared)
    verify_flava_checkpoint(tiny.checkpoint, tiny.codebook, converted, tokenizer=tiny.vocabulary)
    assert "whole" not in kinds and len(kinds["factors"]) > 5


@pytest.mark.parametrize("huge", [False, True])
def test_a_weight_has_the_numbers_that_a_loader_gives_to_it(monkeypatch, huge):
    """However it is read, and in whatever dtype the loader holds it."""
    monkeypatch.setattr(streamed, "_HUGE", 0 if huge else 10**9)
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    for loaded_as in (torch.float32, torch.bfloat16, torch.float64):
        for stored in (values, values.half(), values.double() / 3):
            weight = Weight("w", (7, 5), MemoryTensor(stored), [], loaded_as)
            for dtype in (torch.float32, torch.float64):
                assert torch.equal(weight.load(dtype), stored.to(loaded_as).to(dtype))


def test_a_streamed_model_has_no_values_but_between_its_blocks(tiny, converted):
    """Every parameter of both models is on the meta device, before anything runs and after."""
    from flava_port.demo import DEMO_SIZES

    config, codebook = DEMO_SIZES["tiny"]
    sides = Sides(seeded_state_dict(config), seeded_codebook(codebook), converted, read_config(converted))
    for side in (sides.original(), sides.converted(), sides.streamed_codebook()):
        assert all(parameter.is_meta for parameter in side.model.parameters())
        named = {weight.name for block in side.blocks.values() for weight in block.weights} | {weight.name for weight in side.between}
        assert len(named) > 70
    assert sides.original().blocks.keys() < sides.converted().blocks.keys()


def test_an_interrupted_proof_says_what_was_proven_so_far(run_command, flags, monkeypatch):
    """Each claim stands there as soon as it is settled; the exit status is that of any interrupt."""

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "run", interrupted)
    try:
        ran = run_command("verify", *flags)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert ran.status == 130 and ran.err.startswith("flava-port: interrupted")
    first, *_, last = ran.out.splitlines()
    assert first.startswith("proven      original")
    so_far = "original, keys, shapes, dtypes, values, tied weights, config, processor config, other weights, as loaded, loaded values"
    assert last == f"verdict: none, since it was interrupted; so far proven: {so_far}"


@pytest.mark.usefixtures("taken_for_large")
def test_a_proof_that_does_not_fit_into_memory_is_refused_before_it_runs(run_command, flags, monkeypatch):
    """The claims about the computation are not proven, and say how much it takes and how much is free."""
    monkeypatch.setattr(memory, "free_memory", lambda: 10**8)
    monkeypatch.setattr(Recorder, "run", lambda *_: pytest.fail("it ran"))
    ran = run_command("verify", *flags)
    assert ran.status == 1 and "\nnot proven  forward            it takes 0.7 GB of memory, and 0.1 GB are free\n" in ran.out


def test_what_is_free_is_no_more_than_a_limit_leaves():
    """A limit of the process counts as well as what the system has."""
    free = memory.free_memory()
    if free is None:
        pytest.skip("nothing tells what is free: /proc is not here")
    script = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))\nfrom flava_port.proof.memory import free_memory\nprint(free_memory())"
    limited = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 0 < limited < 10**9


_LIMIT = 3 * 10**9
_LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({_LIMIT}, {_LIMIT}))
from flava_port.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_default_size_is_proven_in_3_gb_and_takes_what_was_reckoned(tmp_path):
    """By the operating system's own account, in a process that can have no more; what is reckoned is no more than half too much."""
    files = make("default", tmp_path)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(made_up_words(30522)))
    convert_flava_checkpoint(files.checkpoint, files.codebook, tmp_path / "hf", tokenizer=vocabulary)
    both = ["--checkpoint_path", files.checkpoint, "--codebook_path", files.codebook, "--converted_path", tmp_path / "hf"]
    command = [sys.executable, "-c", _LIMITED, "verify", *map(str, [*both, "--tokenizer", vocabulary])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0 and out.rstrip().endswith("verdict: proven"), out
    taken = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    config, codebook = SIZES["default"]
    sides = Sides(seeded_state_dict(config), seeded_codebook(codebook), tmp_path / "hf", read_config(tmp_path / "hf"))
    assert taken < memory_for(sides.original(), sides.streamed_codebook()) < 1.5 * taken
