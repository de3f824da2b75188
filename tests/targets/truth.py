"""Data whose true rate is known, because a sample costs a sleep, and loaders whose parts a trial must keep."""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

SAMPLE_S = 0.05
STEP_S = 0.01
"""What a user's own step sleeps."""


class Waiting(Dataset[Tensor]):
    """Samples that take `sample_s` each, however many processes wait at once."""

    def __init__(self, sample_s: float = SAMPLE_S, length: int = 1000) -> None:
        self.sample_s = sample_s
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Tensor:
        if self.sample_s:
            time.sleep(self.sample_s)
        return torch.full((4,), float(number))


def waiting() -> Waiting:
    return Waiting()


def waiting_half() -> Waiting:
    return Waiting(SAMPLE_S / 2)


def instant() -> Waiting:
    return Waiting(0.0)


class LateSecond(Waiting):
    """Instant, but for the first sample of the second worker: it starts late, as by spawn."""

    LATE_S = 1.2

    def __init__(self) -> None:
        super().__init__(0.0)
        self._is_ready = False

    def __getitem__(self, number: int) -> Tensor:
        info = get_worker_info()
        if info is not None and info.id == 1 and not self._is_ready:
            time.sleep(self.LATE_S)
        self._is_ready = True
        return super().__getitem__(number)


def late_second() -> LateSecond:
    return LateSecond()


class Stream(IterableDataset[Tensor]):
    """Ends after 40 samples a worker."""

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(40):
            time.sleep(0.001)
            yield torch.full((4,), float(number))


def stream() -> Stream:
    return Stream()


class Dry(IterableDataset[Tensor]):
    """Ends at once."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


def dry() -> Dry:
    return Dry()


class Dying(Dataset[Tensor]):
    """Runs for some seconds, then its process exits."""

    def __init__(self, life_s: float) -> None:
        self._life_s = life_s
        self._began_s: float | None = None

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, number: int) -> Tensor:
        self._began_s = self._began_s or time.monotonic()
        if time.monotonic() - self._began_s > self._life_s:
            os._exit(9)
        time.sleep(0.005)
        return torch.zeros(4)


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Noise with two classes side by side, for a model to train on."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(3, 9, 9, generator=generator), (torch.arange(9) > 4).long().expand(9, 9)


def squares() -> Squares:
    return Squares()


class WaitingSquares(Squares):
    """The same, and each takes 20 ms."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.02)
        return super().__getitem__(number)


def squares_waiting() -> WaitingSquares:
    return WaitingSquares()


def tiny_model() -> nn.Module:
    return nn.Conv2d(3, 2, 1)


def train_step(batch: Any) -> None:
    images, targets = batch
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    time.sleep(STEP_S)


STEPS_TAKEN: list[None] = []


def slow_at_first(batch: Any) -> None:
    """Three steps of 0.3 s, as of a device that compiles; then none of any length."""
    STEPS_TAKEN.append(None)
    if len(STEPS_TAKEN) <= 3:
        time.sleep(0.3)
    else:
        time.sleep(0.002)


class ByTwos(Sampler[list[int]]):
    """Batches of two neighbours, without an idea of their number."""

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, 20, 2):
            yield [first, first + 1]


class Evens(Sampler[int]):
    """Every second sample."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, 40, 2))

    def __len__(self) -> int:
        return 20


def double(samples: list[Tensor]) -> Tensor:
    return 2 * torch.stack(samples)


def calm_the_dataset(worker: int) -> None:
    """Reach the worker's own copy, as training scripts do."""
    info = get_worker_info()
    assert info is not None
    assert info.id == worker
    info.dataset.sample_s = 0.001


def loader_of_its_own_batches() -> DataLoader[Tensor]:
    return DataLoader(Waiting(0.001), batch_sampler=ByTwos())


def loader_of_its_own_order() -> DataLoader[Tensor]:
    return DataLoader(Waiting(0.001), batch_size=4, sampler=Evens())


def loader_of_its_own_parts() -> DataLoader[Tensor]:
    return DataLoader(
        Waiting(60.0),
        batch_size=4,
        shuffle=True,
        num_workers=1,
        collate_fn=double,
        generator=torch.Generator().manual_seed(5),
        worker_init_fn=calm_the_dataset,
        timeout=30,
    )


def unbatched_loader() -> DataLoader[Tensor]:
    return DataLoader(Stream(), batch_size=None)
