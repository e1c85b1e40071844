"""Work on many tensors has the same results on one thread and on several."""

import threading

import numpy as np
import pytest

from flava_port.files import tensors
from flava_port.files.tensors import ArrayTensor, for_each

TENSORS = {str(number): ArrayTensor(np.full(3, number)) for number in range(50)}


@pytest.fixture(autouse=True, params=[0, 1 << 60], ids=["on threads", "on one"])
def threads(request, monkeypatch):
    monkeypatch.setattr(tensors, "WORTH_A_THREAD", request.param)
    return request.param == 0


def test_every_key_has_its_result_in_order(threads):
    """The results come in the order of the keys, and the work is done on the main thread only if there are no others."""
    found = dict(for_each(lambda key: (int(key) ** 2, threading.current_thread() is threading.main_thread()), TENSORS))
    assert list(found) == list(TENSORS)
    assert all(square == int(key) ** 2 and on_main is not threads for key, (square, on_main) in found.items())


def test_the_first_error_ends_it():
    """After an error, no more work is begun."""
    begun, failed = [], threading.Event()

    def work(key):
        begun.append(key)
        if key == "3":
            failed.set()
            raise ValueError("the fourth")
        if int(key) > 3:
            failed.wait()
            threading.Event().wait(0.02)  # half a second for all: who asked for the fourth hears of it sooner

    with pytest.raises(ValueError, match="the fourth"):
        list(for_each(work, TENSORS))
    assert len(begun) < len(TENSORS) / 2


def test_a_fault_is_found_by_verify_and_revert(tiny, run_command, tmp_path):
    """`verify` finds one changed bit, and `revert` proves what it writes, on one thread and on several."""
    both, out, back = ("--checkpoint_path", tiny.checkpoint, "--codebook_path", tiny.codebook), tmp_path / "out", tmp_path / "back.pt"
    assert run_command("convert", *both, "--pytorch_dump_folder_path", out).status == 0
    reverted = run_command("revert", "--converted_path", out, "--checkpoint_path", back, "--codebook_path", tmp_path / "codes.pt")
    assert reverted.status == 0 and "proven" in reverted.out
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:-7] + bytes([weights[-7] ^ 1]) + weights[-6:])
    ran = run_command("verify", *both, "--converted_path", out, "--weights-only")
    assert ran.status == 1 and "one element changed, in 1 bit" in ran.out
