"""What do the benchmarks train? Data sets and steps of known cost, made of torch and torchvision alone.

Nothing of loadtune is imported here, so that a plain PyTorch loop can use the same data and the same step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import decode_image
from torchvision.transforms.v2.functional import resize

IMAGES = Path(__file__).resolve().parent.parent / "demo" / "nuclei" / "images"
SAMPLES = 4096
SIDE_PX = 160
"""Decoded images are resized to this: about 5 ms a sample on a core of 2025."""


class Waiting(Dataset[Tensor]):
    """Samples that take `sample_s` of waiting each, as a network file system does; one in twenty may be slower.

    Args:
        sample_s: Seconds a sample.
        spread: Uniform spread of it, as a share.
        tail: Factor by which one sample in twenty is slower.
        floats: Floats in a sample.
    """

    def __init__(self, sample_s: float, spread: float = 0.0, tail: float = 1.0, floats: int = 16) -> None:
        self._sample_s, self._spread, self._tail, self._floats = sample_s, spread, tail, floats

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> Tensor:
        """Wait, the same time for the same number, and return zeros."""
        random = Random(number)
        wait_s = self._sample_s * (1.0 + self._spread * random.uniform(-1, 1))
        wait_s *= self._tail if random.random() < 0.05 else 1.0
        if wait_s > 0:
            time.sleep(wait_s)
        return torch.zeros(self._floats)


class Decoding(Dataset[Tensor]):
    """Photographs read, decoded and resized: CPU time, and next to no waiting."""

    def __init__(self) -> None:
        self._paths = [str(path) for path in sorted(IMAGES.glob("*.png"))]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> Tensor:
        """Return one image, (3, SIDE_PX, SIDE_PX) of uint8."""
        image = decode_image(self._paths[number % len(self._paths)], mode="RGB")
        return resize(image, [SIDE_PX, SIDE_PX], antialias=True)


waiting = partial(Waiting, 0.005)
instant = partial(Waiting, 0.0)
long_waits = partial(Waiting, 0.031)
scattered = partial(Waiting, 0.008, spread=0.9)
slow_tail = partial(Waiting, 0.002, tail=10.0)
large = partial(Waiting, 0.020, floats=4 << 20)
decoding = Decoding


def step_1ms(batch: Any) -> None:
    """Train as fast as can be: next to nothing."""
    del batch
    time.sleep(0.001)


def step_20ms(batch: Any) -> None:
    """Train for 20 ms on a device that needs no core."""
    del batch
    time.sleep(0.020)


def step_30ms(batch: Any) -> None:
    """Train for 30 ms on a device that needs no core."""
    del batch
    time.sleep(0.030)


@dataclass(frozen=True, slots=True)
class Workload:
    """A data set, a step, and the batch size that they are trained at; factories by their names in this module."""

    dataset: str
    step: str
    batch_size: int
    limit: str
    """What the rate is limited by at one worker: waiting, nothing (balanced), device or cpu."""

    def make_dataset(self) -> Dataset[Tensor]:
        """Return the data."""
        factory: Callable[[], Dataset[Tensor]] = globals()[self.dataset]
        return factory()

    def make_step(self) -> Callable[[Any], None]:
        """Return the training step."""
        step: Callable[[Any], None] = globals()[self.step]
        return step


WORKLOADS = {
    "waiting": Workload("waiting", "step_1ms", 8, "waiting"),
    "balanced": Workload("waiting", "step_20ms", 8, "balanced"),
    "device": Workload("instant", "step_30ms", 8, "device"),
    "decoding": Workload("decoding", "step_1ms", 8, "cpu"),
    "long waits": Workload("long_waits", "step_1ms", 16, "waiting"),
    "scattered waits": Workload("scattered", "step_1ms", 8, "waiting"),
    "slow tail": Workload("slow_tail", "step_1ms", 8, "waiting"),
    "full queue": Workload("waiting", "step_30ms", 8, "device"),
    "16 MB samples": Workload("large", "step_1ms", 4, "waiting"),
}
