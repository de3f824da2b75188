"""What a user may hand over: data sets, loaders, models and steps, whole and faulty."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    WeightedRandomSampler,
)

SAMPLE_COUNT = 12
STEPPED: list[Any] = []


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Noise with two classes side by side."""

    def __len__(self) -> int:
        return SAMPLE_COUNT

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(3, 33, 33, generator=generator), (torch.arange(33) > 16).long().expand(33, 33)


class Stream(IterableDataset[Tensor]):
    """Samples whose number nobody knows."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.zeros(SAMPLE_COUNT, 1))


class Unsized(Dataset[Tensor]):
    """Map-style, but without a length."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.zeros(1)


ready_dataset = Squares()


def make_dataset() -> Squares:
    return Squares()


def make_plain_loader() -> DataLoader[Any]:
    return DataLoader(Squares(), batch_size=4, shuffle=True)


def make_batch_sampled_loader() -> DataLoader[Any]:
    return DataLoader(Squares(), batch_sampler=BatchSampler(SequentialSampler(Squares()), 3, drop_last=False))


def make_weighted_loader() -> DataLoader[Any]:
    return DataLoader(Squares(), batch_size=2, sampler=WeightedRandomSampler([1.0] * SAMPLE_COUNT, 7))


def make_unbatched_loader() -> DataLoader[Any]:
    return DataLoader(Stream(), batch_size=None)


def make_dict() -> dict[str, int]:
    return {"samples": 3}


def make_nothing_without_a_folder(folder: str) -> Squares:
    return Squares()


def make_trouble() -> Squares:
    raise ValueError("the annotations\nare missing")


class OutModel(nn.Module):
    """One 1x1 convolution, its logits in a dict as torchvision's segmentation models give them."""

    def __init__(self, class_count: int = 2) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, class_count, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(images)}


def train_step(batch: Any) -> None:
    STEPPED.append(batch)
