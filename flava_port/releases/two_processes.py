"""FLAVA in two processes that share a batch (torch's gloo), with the contrastive loss over both."""

import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import torch

from .circumstances import Circumstance, Inputs
from .observation import Run, read_runs, write_runs
from .runs import observe_runs
from .small_model import Variant

DISTRIBUTED = "two processes"
_SECONDS = 60


def can_fork() -> bool:
    """Whether this system forks, so that processes need not import everything again."""
    return hasattr(os, "fork") and torch.distributed.is_available()


def cases_of(rank: int) -> list[Circumstance]:
    """What the process does with its share of six pairs, the same in both but for the inputs."""
    of = Inputs()
    inputs = of.pairs | of.mim | of.mlm | of.padding | {"itm_labels": torch.tensor([1, 0, 1])}
    if rank:
        inputs = {name: value.flip(0) * (0.5 if value.is_floating_point() else 1) for name, value in inputs.items()}
    fields = {"": (), ", global_backprop_contrastive = False": (("global_backprop_contrastive", False),)}
    return [
        Circumstance(f"process {rank}, pairs, labels{name}", inputs, judged_by=None, kind=DISTRIBUTED, variant=Variant(fields=changed))
        for name, changed in fields.items()
    ]


def observe_two_processes() -> Mapping[str, Run]:
    """What each of two processes answers. This process must have run nothing backwards, or those that it forks could not.

    Nothing where the system does not fork.
    """
    if not can_fork():
        return {}
    with tempfile.TemporaryDirectory(prefix="flava_port-") as folder:
        context = get_context("fork")
        workers = [context.Process(target=_work, args=(rank, folder), daemon=True) for rank in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(_SECONDS)
        for worker in workers:
            if worker.is_alive():
                worker.kill()
        return {name: run for rank in (0, 1) for name, run in _of_process(rank, Path(folder)).items()}


def _of_process(rank: int, folder: Path) -> Mapping[str, Run]:
    file = folder / str(rank)
    if file.exists():
        return read_runs(file)
    return {case.name: Run({}, {}, (), "RuntimeError: the process ended without an answer", kind=DISTRIBUTED) for case in cases_of(rank)}


def _work(rank: int, folder: str) -> None:
    """One of the two processes: joins the other, runs its share and writes what came of it."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=_SECONDS))
    try:
        write_runs(observe_runs(cases_of(rank)), Path(folder) / str(rank))
    finally:
        torch.distributed.destroy_process_group()
