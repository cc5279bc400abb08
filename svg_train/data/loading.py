"""Batches whose content depends on the step number alone, so that a resumed run sees the same ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from svg_common.signals import stop_signals
from svg_train.data import Frames, SequenceDataset


class StepSampler:
    """Indices of each step's batch: epochs are permutations drawn from (seed, epoch).

    Of `world_size` processes, each takes its share of the batch, and all together take what one process would.
    """

    def __init__(self, count: int, batch_size: int, steps: range, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self._count = count
        self._batch_size = batch_size
        self._steps = steps
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        share = share_of_batch(self._batch_size, self._rank, self._world_size)
        for step in self._steps:
            first = step * self._batch_size
            yield [self._index(first + place) for place in range(share.start, share.stop)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        return int(self._order[offset])


def share_of_batch(batch_size: int, rank: int, world_size: int) -> slice:
    """Which sequences of a batch process `rank` takes; `world_size` divides the batch."""
    size = batch_size // world_size
    return slice(rank * size, (rank + 1) * size)


def collate(sequences: list[Frames]) -> Tensor:
    """List of B (T, H, W, C) uint8 -> (T, B, C, H, W) uint8."""
    return torch.from_numpy(np.stack(sequences, axis=1)).permute(0, 1, 4, 2, 3)


def to_unit(frames: Tensor) -> Tensor:
    """uint8 frames -> float32 in [0, 1], on the same device."""
    return frames.float().div_(255)


def training_loader(dataset: SequenceDataset, sampler: StepSampler, workers: int, pin_memory: bool) -> DataLoader[Tensor]:
    """Loader of one (T, B, C, H, W) uint8 batch per step of `sampler`."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # any object with __len__ and __getitem__ works
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(leave_stop_signals_to_training, training=os.getpid()),
    )


def leave_stop_signals_to_training(worker: int, training: int) -> None:
    """Let a loader process outlive Ctrl-C, SIGTERM and SIGHUP, which terminals and service managers send to all processes.

    The training still needs its batches: it ends after a step, and then ends its loaders. They inherit its handlers, and each
    would say that it stops.

    Args:
        worker: number of the process; any.
        training: process id of the training, which need not be the parent.
    """
    for number in stop_signals():
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux; elsewhere PyTorch's handler ends the process, whoever sends SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(training,), daemon=True).start()


def _end_with(training: int) -> None:
    """Obey SIGTERM from the training alone: it sends one to a loader that does not end by itself."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)


def step_noise(shape: tuple[int, ...], seed: int, step: int, shared: int = 0) -> Tensor:
    """Standard normal noise of one training step, reproducible from (seed, step) on any device.

    Args:
        shape: (draws, B, size) of the batch of all processes, each of which takes its share.
        seed: of the run.
        step: number of the optimizer step.
        shared: how many of the last entries are those of the first sequence for all sequences.
    """
    state = np.random.SeedSequence((seed, step, 0)).generate_state(1, np.uint64)[0]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(int(state >> 1)))
    if shared:
        noise[..., -shared:] = noise[:, :1, -shared:].clone()
    return noise
