"""How do listed image-mask pairs become training samples, and what do a few of them say about all?

The parent lists the pairs; this module reads them, in the trial process and its DataLoader workers.
"""

import os
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

import msgspec
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loadtune.errors import TooManyBadSamplesError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload.decode import BrokenFileError, read_image, read_mask
from loadtune.workload.transform import IGNORE_LABEL, apply_cut, draw_cut, finish

REPLACEMENT_ATTEMPTS = 64
"""Samples tried in a row. With fewer, one broken folder in a good data set ends the trial."""

SURVEY_LIMIT_S = 4.0
"""Longest survey. A photograph of 24 megapixels takes a fifth of a second: a longer one eats the budget."""


class PairSource(Protocol):
    """The listed pairs, as `loadtune.dataset.index.PairIndex` holds them."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def pair(self, number: int, /) -> tuple[str, str]:
        """Return the paths of an image and its mask."""


class Faults(NamedTuple):
    """What went wrong in one process since it was last asked."""

    bad_samples: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every broken sample met; one met in two epochs is listed twice."""
    pixels_seen: int = 0
    """Mask pixels delivered, padding apart."""
    pixels_ignored: int = 0
    """Those among them whose label was outside the classes and became ignore."""


class BrokenSampleError(Exception):
    """A pair that cannot be trained on. Arguments: the path at fault, as printable text, and the reason."""


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Map-style data set of (image (3, crop_px, crop_px) float32, labels (crop_px, crop_px) int64).

    A broken sample is recorded and replaced by the next good one, so that a batch keeps its size.

    Args:
        index: The pairs. It is handed on as it is, so that it decides how it reaches the workers.
        spec: crop_px, base_size_px, augment, class_count and is_binary_mask are used.
    """

    def __init__(self, index: PairSource, spec: WorkloadSpec) -> None:
        self._index = index
        self._spec = spec
        self._bad_samples: list[tuple[str, str]] = []
        self._pixels_seen = 0
        self._pixels_ignored = 0

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a sample, or its next good neighbour.

        Raises:
            TooManyBadSamplesError: The sample and the 63 after it are broken.
        """
        attempts = min(REPLACEMENT_ATTEMPTS, len(self))
        for position in range(number, number + attempts):
            try:
                image, mask = read_pair(self._index, position % len(self))
            except BrokenSampleError as error:
                path, reason = error.args
                self._bad_samples.append((path, reason))
            else:
                return self._prepare(image, mask)
        path, reason = self._bad_samples[-1]
        raise TooManyBadSamplesError(
            f"{attempts} samples in a row cannot be read, the last {path}: {reason}",
            "repair or remove them; `--max-bad` bounds how many may be skipped",
        )

    def take_faults(self) -> Faults:
        """Return what happened in this process since the last call. A worker calls it once a batch."""
        faults = Faults(tuple(self._bad_samples), self._pixels_seen, self._pixels_ignored)
        self._bad_samples.clear()
        self._pixels_seen = self._pixels_ignored = 0
        return faults

    def _prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        height, width = mask.shape[-2:]
        image, mask = apply_cut(image, mask, draw_cut(height, width, self._spec))
        labels, ignored = map_labels(mask[0], self._spec)
        self._pixels_seen += labels.numel()
        self._pixels_ignored += ignored
        return finish(image, labels, self._spec.crop_px)


def map_labels(mask: Tensor, spec: WorkloadSpec) -> tuple[Tensor, int]:
    """Return int64 labels a loss can take, and how many pixels were outside the classes.

    A binary mask's non-zero values become class 1. Elsewhere 255 is ignore, and so becomes every label below
    0, at or above class_count, which on CUDA would end in a device-side assertion.
    """
    if spec.is_binary_mask:
        return (mask != 0).to(torch.int64), 0
    labels = mask.to(torch.int64)
    is_outside = ((labels >= spec.class_count) | (labels < 0)) & (labels != IGNORE_LABEL)
    return labels.masked_fill_(is_outside, IGNORE_LABEL), int(is_outside.sum())


def read_pair(index: PairSource, number: int) -> tuple[Tensor, Tensor]:
    """Return an image (3, H, W) uint8 and its mask (1, H, W) as stored.

    Raises:
        BrokenSampleError: One of them cannot be read, or their sizes differ.
    """
    image_path, mask_path = index.pair(number)
    path = image_path
    try:
        image = read_image(path)
        path = mask_path
        mask = read_mask(path)
    except BrokenFileError as error:
        raise BrokenSampleError(_printable(path), str(error)) from error
    if image.shape[-2:] != mask.shape[-2:]:
        sizes = [f"{width}x{height}" for height, width in (image.shape[-2:], mask.shape[-2:])]
        raise BrokenSampleError(_printable(image_path), f"{sizes[0]} pixels, its mask {sizes[1]}")
    return image, mask


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What an evenly spread sample of the pairs looks like."""

    readable_count: int
    """Pairs looked at that can be trained on."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of the other pairs looked at."""
    class_count: int | None
    """Largest label, 255 apart, plus 1; at least 2. None: no pair was readable, as with every None here."""
    is_binary_mask: bool
    """All mask values lie within {0, 255} and 255 occurs: 255 is class 1 there, not ignore."""
    width_px: float | None
    """Median width of the images."""
    height_px: float | None
    """Median height of the images."""
    mean_pair_bytes: float | None
    """Mean size of an image file and its mask file together."""


def survey(index: PairSource, limit: int = 32, limit_s: float = SURVEY_LIMIT_S) -> Survey:
    """Read an evenly spread sample of the pairs and say what they have in common.

    Args:
        index: The pairs.
        limit: Pairs to look at, at most.
        limit_s: Seconds after which no further pair is read; what was read is still spread evenly, at random.
    """
    deadline_s = time.monotonic() + limit_s
    unreadable: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    file_bytes: list[int] = []
    values: set[int] = set()
    for number in _spread(len(index), limit):
        if (sizes or unreadable) and time.monotonic() > deadline_s:
            break
        try:
            image, mask = read_pair(index, number)
        except BrokenSampleError as error:
            path, reason = error.args
            unreadable.append((path, reason))
            continue
        sizes.append((image.shape[-1], image.shape[-2]))
        file_bytes.append(sum(Path(path).stat().st_size for path in index.pair(number)))
        values |= _values(mask)
    return Survey(
        readable_count=len(sizes),
        unreadable=tuple(unreadable),
        class_count=max(2, *(value + 1 for value in values | {0} if value != IGNORE_LABEL)) if sizes else None,
        is_binary_mask=IGNORE_LABEL in values and values <= {0, IGNORE_LABEL},
        width_px=median(width for width, _ in sizes) if sizes else None,
        height_px=median(height for _, height in sizes) if sizes else None,
        mean_pair_bytes=sum(file_bytes) / len(file_bytes) if file_bytes else None,
    )


def _spread(length: int, limit: int) -> list[int]:
    """Return up to `limit` evenly spaced numbers below `length`, shuffled alike every time."""
    count = min(length, limit)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return [place * length // count for place in order]


def _values(mask: Tensor) -> set[int]:
    """Return the distinct values of a mask; counting bytes is many times quicker than sorting them."""
    if mask.dtype == torch.uint8:
        return set(torch.bincount(mask.flatten(), minlength=256).nonzero().flatten().tolist())
    return set(mask.unique().tolist())


def _printable(path: str | os.PathLike[str]) -> str:
    """Return a path as text that JSON can hold: a name that is not UTF-8 keeps the rest of its letters."""
    return os.fsencode(path).decode("utf-8", "replace")
