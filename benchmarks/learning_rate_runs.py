"""What does `learning_rate` train? A small convolutional net on scikit-learn's digits, and DeepLabv3+ on the demo."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from PIL import Image
from torch import Tensor, nn

from loadtune.schedule.noise_scale import NoiseScale
from loadtune.schedule.rescaled import WarmUp
from loadtune.workload.deeplab import deeplabv3plus

ROOT = Path(__file__).resolve().parent.parent
TRAINED = 1280
"""Digits trained on: 80 batches of 16, 20 of 64 and 5 of 256, so that every batch size sees the same samples."""
SPLIT_SEED = 20261126
"""Which digits are trained on, and whose labels are wrong, is the same in every run."""
WRONG_LABELS_RATIO = 0.1
"""Share of the training labels drawn anew. Without, nothing rescaled ends where the base run does: no control."""
POWER = 0.9
"""Of the polynomial schedule, as DeepLab uses it."""
NUCLEI_PX = 65
"""Side of the demo's images as trained here: a step on two cores stays below half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, apart from its seed."""

    optimizer: str
    """torch's class."""
    hyperparameters: dict[str, Any]
    """Its arguments, the rate included."""
    batch_size: int
    """Samples behind one optimizer step."""
    micro_batch_size: int
    """Samples of one forward pass, over which BatchNorm normalises; gradients of several are accumulated."""
    schedule_batch_size: int
    """By which the schedule counts a step: the batch size where it follows the samples seen, the base one where it
    was left in steps."""
    warm_up: WarmUp | None = None
    batch_norm_momentum: float = 0.1
    """torch's default."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What is trained on and measured with. Images are float32 (samples, channels, height, width)."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def digits() -> Samples:
    """Return 1,280 digits of 8 x 8 pixels to train on, some mislabelled, and 517 to test with."""
    from sklearn.datasets import load_digits  # an extra: the tests of the scores do without

    found = load_digits()
    generator = np.random.default_rng(SPLIT_SEED)
    order = generator.permutation(len(found.target))
    images = torch.tensor(found.images[order] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(found.target[order])
    wrong = torch.tensor(generator.random(TRAINED) < WRONG_LABELS_RATIO)
    drawn = torch.tensor(generator.integers(0, 10, TRAINED))
    trained = torch.where(wrong, drawn, labels[:TRAINED])
    return Samples(images[:TRAINED], trained, images[TRAINED:], labels[TRAINED:])


@cache
def nuclei() -> Samples:
    """Return the demo's photographs and binary masks at `NUCLEI_PX`: all are trained on, none are held back."""
    images, masks = [], []
    folder = ROOT / "demo" / "nuclei"
    for path in sorted((folder / "images").iterdir()):
        size = (NUCLEI_PX, NUCLEI_PX)
        image = Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        mask = Image.open(folder / "masks" / f"{path.stem}_mask{path.suffix}").convert("L")
        images.append(np.asarray(image, dtype=np.float32) / 255)
        masks.append(np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0)
    stacked = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(np.stack(masks)).long()
    return Samples(stacked, labels, stacked, labels)


def small_net() -> nn.Module:
    """Return a convolutional net with BatchNorm for digits: 3,022 parameters."""
    return nn.Sequential(*_block(1, 12), *_block(12, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


def segmentation_net() -> nn.Module:
    """Return DeepLabv3+ on the smallest ResNet."""
    return deeplabv3plus("resnet18", class_count=2)


def train(
    make: Callable[[], nn.Module],
    samples: Samples,
    plan: Plan,
    epochs: int,
    seed: int,
    watch: Callable[[nn.Module, int], None] | None = None,
) -> dict[str, float | None]:
    """Train once and return the mean loss over all samples in evaluation mode; None: it is not finite.

    Runs of a seed begin with the same weights and see the samples in the same order, whatever their batch size.

    Args:
        make: Makes the network.
        samples: What to train on and to test with.
        plan: How.
        epochs: Passes over the samples.
        seed: Of the weights and of the order.
        watch: Called with the network and the samples seen, before each step.
    """
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = plan.batch_norm_momentum
    optimizer = getattr(torch.optim, plan.optimizer)(model.parameters(), **plan.hyperparameters)
    total = epochs * len(samples.labels)
    model.train()
    for step, chosen in enumerate(batches(len(samples.labels), plan.batch_size, epochs, seed)):
        if watch is not None:
            watch(model, step * plan.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = plan.hyperparameters["lr"] * rate_ratio(plan, step, total)
        optimizer.zero_grad()
        for part in chosen.split(plan.micro_batch_size):
            loss = F.cross_entropy(model(samples.images[part]), samples.labels[part])
            (loss * (len(part) / len(chosen))).backward()
        optimizer.step()
    model.eval()
    return {
        "training loss": _loss(model, samples.images, samples.labels),
        "test loss": _loss(model, samples.test_images, samples.test_labels),
    }


def batches(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of each batch; an incomplete last one is left out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def rate_ratio(plan: Plan, step: int, total: int) -> float:
    """Return the rate at a step by the base rate: the polynomial of samples seen, warmed up if the plan says so."""
    ratio = max(0.0, 1 - step * plan.schedule_batch_size / total) ** POWER
    return ratio if plan.warm_up is None else ratio * plan.warm_up.ratio_at(step * plan.batch_size)


def measure_noise_scale(
    make: Callable[[], nn.Module], samples: Samples, plan: Plan, epochs: int, seed: int, begin: float
) -> NoiseScale:
    """Train once, and measure the gradient noise scale over the last part of it.

    Args:
        make: Makes the network.
        samples: As for `train`.
        plan: As for `train`.
        epochs: As for `train`.
        seed: As for `train`.
        begin: Share of the run after which it is measured.
    """
    total = epochs * len(samples.labels)
    every = max(1, round((1 - begin) * total / plan.batch_size / NOISE_STEPS))
    generator = torch.Generator().manual_seed(seed + 1)
    found: list[NoiseScale] = []

    def look(model: nn.Module, seen: int) -> None:
        if seen < begin * total or seen // plan.batch_size % every:
            return
        if not found:
            found.append(NoiseScale(model, NOISE_BATCH, is_trained=True))
        order = torch.randperm(len(samples.labels), generator=generator)[: NOISE_BATCH * NOISE_BATCHES]
        found[0].measure(
            lambda chosen: F.cross_entropy(model(samples.images[chosen]), samples.labels[chosen]),
            order.split(NOISE_BATCH),
        )

    train(make, samples, plan, epochs, seed, look)
    return found[0]


NOISE_BATCH, NOISE_BATCHES, NOISE_STEPS = 16, 8, 40
"""Samples of a micro-batch, how many are compared, and how often in a run."""


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> float | None:
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(some), own, reduction="sum")
            for some, own in zip(images.split(128), labels.split(128), strict=True)
        ]
    loss = float(torch.stack(parts).sum()) / labels.numel()
    return loss if math.isfinite(loss) else None
