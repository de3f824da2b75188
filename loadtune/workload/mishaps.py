"""What goes wrong on purpose? Data sets and steps that fail as real ones do.

`loadtune verify` sees with them that each failure is named and leaves nothing behind. They are named by targets and run
in trial processes only.
"""

import os
import signal
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

GOOD_SAMPLES = 24
"""Samples that are fine at first, so that the mishap strikes a loop under way."""
LENGTH = 1 << 20
GROWTH_BYTES = 16 << 20
"""Memory that each sample of `Growing` keeps: the limit is passed within a second, and not in one leap."""


class DyingWorker(Dataset[Tensor]):
    """Kills the process that prepares it, as the kernel does when memory runs out; in a worker only."""

    def __init__(self) -> None:
        self._taken = 0

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Tensor:
        """Return zeros, until it is time to die."""
        self._taken += 1
        if self._taken > GOOD_SAMPLES and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(4)


class Growing(Dataset[Tensor]):
    """Keeps memory with every sample, without an end."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Tensor:
        """Keep some more, and return zeros."""
        self._kept.append(torch.ones(GROWTH_BYTES // 4))
        return torch.zeros(4)


class Plain(Dataset[Tensor]):
    """Zeros."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Tensor:
        """Return zeros."""
        return torch.zeros(4)


def do_nothing(batch: Any) -> None:
    """Train on nothing."""
    del batch


DEVICE_BYTES = 4 << 30
"""Device memory that the growing network may take: others on the same card go on, as they would not if it were full."""


def outgrow_device(batch: Tensor) -> None:
    """Train a network that cannot fit: each layer keeps a GiB more for its backward pass, until there is none left."""
    total_bytes = torch.cuda.get_device_properties(batch.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, DEVICE_BYTES / total_bytes), batch.device)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, device=batch.device)
    images = torch.zeros(16, 64, 512, 512, device=batch.device)
    while True:
        images = layer(images)
