"""Saves a model from two processes as torch.distributed.checkpoint does: by FSDP2, cut along rows, cut along columns.

Started as a program, ``python -m tests.files.two_ranks FOLDER rows columns``, with some of the names in `SAVES`. It
imports torch once and forks.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from tests.builders import tiny_state_dict

RANKS = 2


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    children = [os.fork() or _rank(rank, folder, names) for rank in range(RANKS)]
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit("a rank failed")


def _rank(rank: int, folder: Path, names: list[str]) -> int:
    """One of the two processes. It does not return."""
    status = 1
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
        warnings.simplefilter("ignore")
        for name in names:
            SAVES[name](folder / name)
        dist.barrier()
        dist.destroy_process_group()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _mesh():
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (RANKS,))


def as_module(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module whose state dict has these keys: a module for each part of a name between dots."""
    root = torch.nn.Module()
    for key, tensor in state.items():
        *parts, last = key.split(".")
        module = root
        for part in parts:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if tensor.is_floating_point():
            module.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
    return root


def _fsdp2() -> torch.nn.Module:
    """The tiny original under FSDP2, whose scale has one dimension, for a scalar cannot be cut."""
    from torch.distributed.fsdp import fully_shard

    state = tiny_state_dict()
    state["heads.cmd.clip_head.logit_scale"] = state["heads.cmd.clip_head.logit_scale"][None]
    module = as_module(state)
    fully_shard(module, mesh=_mesh())
    return module


def save_by_fsdp2(folder: Path) -> None:
    """As a trainer does, with an optimizer that has made a step and a number beside."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    module = _fsdp2()
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # a step of Adam's that changes no weight
    optimizer.step()
    model, optim = get_state_dict(module, optimizer)
    dcp.save({"model": model, "optim": optim, "epoch": 3}, checkpoint_id=folder)


def save_one_rank(path: Path) -> None:
    """What one rank's own state dict holds, in a file of torch's."""
    state = _cut_along(0)
    if dist.get_rank() == 0:
        torch.save(state, path)


def _cut_along(axis: int) -> dict[str, torch.Tensor]:
    """The tiny original, each tensor that has the axis cut in two along it."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = _mesh()
    placed = {key: [Shard(axis) if tensor.dim() > axis else Replicate()] for key, tensor in tiny_state_dict().items()}
    return {key: distribute_tensor(tensor, mesh, placed[key]) for key, tensor in tiny_state_dict().items()}


def _saves_cut_along(axis: int) -> Callable[[Path], None]:
    return lambda folder: dcp.save(_cut_along(axis), checkpoint_id=folder)


SAVES = {
    "rows": _saves_cut_along(0),
    "columns": _saves_cut_along(1),
    "third axis": _saves_cut_along(2),
    "one_rank.pt": save_one_rank,
    "fsdp2": save_by_fsdp2,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
