"""What do a few samples of a data set on disk say about all? Sizes, classes, and what their masks' pixels mean."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

import msgspec
import torch
from torch import Tensor

from loadtune.records.stored import Masks
from loadtune.workload.masks import IGNORE_LABEL
from loadtune.workload.segmentation import SegmentationDataset, ShardDataset
from loadtune.workload.sources import BrokenSampleError, FilePairs, SampleSource

SURVEY_LIMIT_S = 4.0
"""Longest survey. A photograph of 24 megapixels takes a fifth of a second: a longer one eats the budget."""
SURVEYED = 32
"""Samples looked at, at most."""
PALETTE_MAX = 256
"""Distinct colours beyond which masks are photographs, or have blended edges, and their colours are no classes."""

Reading = tuple[Tensor, Tensor] | BrokenSampleError


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What an evenly spread sample of a data set looks like."""

    readable_count: int
    """Samples looked at that can be trained on."""
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of the others looked at."""
    class_count: int | None
    """As the data set says, else the largest label, 255 apart, plus 1; at least 2. None: none was readable, as with
    every None here."""
    is_binary_mask: bool
    """All mask values lie within {0, 255} and 255 occurs: 255 is class 1 there, not ignore."""
    masks: Masks
    """How masks are to be read, now that some were seen."""
    width_px: float | None
    """Median width of the images."""
    height_px: float | None
    """Median height of the images."""
    mean_pair_bytes: float | None
    """Mean stored size of an image and its mask together; None too where the source does not know."""


@dataclass(slots=True)
class _Seen:
    """What was seen so far."""

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    coloured: int = 0
    """Those among the unreadable whose masks are colours."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    values: set[int] = field(default_factory=set)

    def add(self, reading: Reading) -> None:
        """Take in one sample."""
        if isinstance(reading, BrokenSampleError):
            path, reason = reading.args
            self.unreadable.append((path, reason))
            self.coloured += reading.has_colours
            return
        image, mask = reading
        self.sizes.append((image.shape[-1], image.shape[-2]))
        self.values |= _values(mask)


def survey(
    dataset: SegmentationDataset | ShardDataset, limit: int = SURVEYED, limit_s: float = SURVEY_LIMIT_S
) -> Survey:
    """Read some samples and say what they have in common.

    Masks whose pixels all turn out to be colours are read again as such: their classes are those of the class file, if
    there is one (`Masks.palette`), else the colours in rising order.

    Args:
        dataset: Its source is read, evenly spread; of shards, the first samples.
        limit: Samples to look at, at most.
        limit_s: Seconds after which no further one is read; what was read is still spread evenly, at random.
    """
    if isinstance(dataset, ShardDataset):
        return _conclude(_look(islice(dataset.readings(), limit), limit_s), dataset.masks, None)
    source = dataset.source
    numbers = _spread(len(source), limit)
    seen = _look((_read(source, number) for number in numbers), limit_s)
    masks = source.masks
    # A mask of black alone reads as labels, also among colours.
    is_coloured = seen.coloured > len(seen.sizes) or (seen.coloured and masks.palette)
    if is_coloured and isinstance(source, FilePairs):
        coloured = FilePairs(source.index, Masks(kind="colours", palette=masks.palette))
        again = _look((_read(coloured, number) for number in numbers), limit_s)
        palette = masks.palette or tuple(sorted(again.values))
        if again.sizes and len(palette) <= max(PALETTE_MAX, len(masks.palette)):
            masks = Masks(kind="colours", palette=palette, class_count=max(2, len(palette)))
            seen = again
    return _conclude(seen, masks, _mean_bytes(source, numbers[: len(seen.sizes)]))


def _look(readings: Iterator[Reading], limit_s: float) -> _Seen:
    deadline_s = time.monotonic() + limit_s
    seen = _Seen()
    for reading in readings:
        seen.add(reading)
        if time.monotonic() > deadline_s:
            break
    return seen


def _conclude(seen: _Seen, masks: Masks, mean_pair_bytes: float | None) -> Survey:
    sizes, values = seen.sizes, seen.values
    counted = masks.class_count or max(2, *(value + 1 for value in values | {0} if value != IGNORE_LABEL))
    return Survey(
        readable_count=len(sizes),
        unreadable=tuple(seen.unreadable),
        class_count=counted if sizes else None,
        is_binary_mask=masks.kind == "labels" and IGNORE_LABEL in values and values <= {0, IGNORE_LABEL},
        masks=masks,
        width_px=median(width for width, _ in sizes) if sizes else None,
        height_px=median(height for _, height in sizes) if sizes else None,
        mean_pair_bytes=mean_pair_bytes if sizes else None,
    )


def _read(source: SampleSource, number: int) -> Reading:
    try:
        return source.read(number)
    except BrokenSampleError as error:
        return error


def _mean_bytes(source: SampleSource, numbers: list[int]) -> float | None:
    """Return the mean stored bytes of samples; None where the source does not know, or a file has gone."""
    try:
        sizes = [size for number in numbers if (size := source.nbytes(number)) is not None]
    except OSError:
        return None
    return sum(sizes) / len(sizes) if sizes else None


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
