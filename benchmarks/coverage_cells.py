"""Which workloads do the probes and duels of `coverage` meet? Samples that wait or are decoded, by known rules.

Trial processes import this module by name, so it imports torch, torchvision and nothing of the project.
"""

import hashlib
import math
import time
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import decode_image

IMAGES = Path(__file__).resolve().parent.parent / "demo" / "nuclei" / "images"
LENGTH = 4096
"""Samples in each data set: with fewer, epochs end within a window, and their ends have costs of their own."""
WAIT_S = 0.004
"""Time a sample waits. A batch of 8 keeps a worker for 32 ms: much shorter, and the processes' own costs count."""
LONG_WAIT_S = 0.012
"""Eight of these make a batch every 0.1 s, three workers three at once; longer bursts do not fit a short duel."""
TAIL_ONE_IN, TAIL_FACTOR = 20, 10
"""One sample in so many takes so many times as long: every third batch of 8 holds one; rarer, and slices miss it."""
STEP_BYTES = 12_000_000
"""Bytes that a training step on the CPU digests: as long as a worker takes for a batch. With either longer, workers
could win nothing; with more threads than one, as torch's own products use, the neighbour would stop each of them."""

CELLS = {
    "waiting": "--dataset benchmarks.coverage_cells:waiting --step-time 0.01 --batch-size 8"
    " --num-workers 1,2 --baseline num_workers=1 --budget 32s",
    "long waits, bursts": "--dataset benchmarks.coverage_cells:long_waits --step-time 0.02 --batch-size 8"
    " --num-workers 0,3 --baseline num_workers=0 --budget 40s",
    "balanced": "--dataset benchmarks.coverage_cells:waiting --step-time 0.034 --batch-size 8"
    " --num-workers 0,1,2 --baseline num_workers=0 --budget 32s",
    "device-bound": "--dataset benchmarks.coverage_cells:instant --step-time 0.02 --batch-size 8"
    " --num-workers 1,2 --baseline num_workers=1 --budget 32s",
    "exponential waits": "--dataset benchmarks.coverage_cells:exponential --step-time 0.01 --batch-size 8"
    " --num-workers 1,2 --baseline num_workers=1 --budget 32s",
    "heavy tail": "--dataset benchmarks.coverage_cells:heavy_tail --step-time 0.01 --batch-size 8"
    " --num-workers 1,2 --baseline num_workers=1 --budget 32s",
    "decoding": "--dataset demo/nuclei --step-time 0.01 --crop 193 --batch-size 4"
    " --num-workers 1,2 --baseline num_workers=1,persistent_workers=true --budget 40s",
    "on the CPU": "--dataset benchmarks.coverage_cells:decoding --device cpu --batch-size 8"
    " --train-step benchmarks.coverage_cells:train_step --num-workers 0,1 --baseline num_workers=0 --budget 40s",
}
"""What each cell's probe is asked. 32 s is the shortest that screens three settings once and starts a duel three times;
those whose batches take long, or cost the CPU, take longer. Where the choice is not the baseline, there is a duel."""


class Waiting(Dataset[Tensor]):
    """Samples that wait for a time of their own, which costs no CPU and lets any number wait at once."""

    def __init__(self, waits_s: list[float]) -> None:
        self._waits_s = waits_s

    def __len__(self) -> int:
        return len(self._waits_s)

    def __getitem__(self, number: int) -> Tensor:
        if self._waits_s[number]:
            time.sleep(self._waits_s[number])
        return torch.full((4,), float(number))


class Decoding(Dataset[Tensor]):
    """The demo's photographs over and over, read and decoded, and a few of their pixels."""

    def __init__(self) -> None:
        self._paths = [str(path) for path in sorted(IMAGES.iterdir())]

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> Tensor:
        return decode_image(self._paths[number % len(self._paths)])[:3, :32, :32].float()


def instant() -> Waiting:
    """Nothing waits: the device is the limit."""
    return Waiting([0.0] * LENGTH)


def waiting() -> Waiting:
    """Every sample waits alike."""
    return Waiting([WAIT_S] * LENGTH)


def long_waits() -> Waiting:
    """Every sample waits long, so that several workers deliver in bursts."""
    return Waiting([LONG_WAIT_S] * LENGTH)


def exponential() -> Waiting:
    """Waits are drawn from an exponential distribution."""
    drawn = Random(0)
    return Waiting([-WAIT_S * math.log(1.0 - drawn.random()) for _ in range(LENGTH)])


def heavy_tail() -> Waiting:
    """Few samples take many times as long."""
    drawn = Random(0)
    return Waiting([WAIT_S / 2 * (TAIL_FACTOR if drawn.random() < 1 / TAIL_ONE_IN else 1) for _ in range(LENGTH)])


def decoding() -> Decoding:
    """Every sample costs CPU."""
    return Decoding()


def train_step(batch: Tensor) -> None:
    """Cost the CPU as much whatever the batch holds."""
    hashlib.sha256(bytes(STEP_BYTES)).digest()
    batch.mean()
