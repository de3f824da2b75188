"""How do images and masks become training samples? Map-style from any `SampleSource`, or streamed from shards.

The parent lists what there is; this module reads it, in the trial process and its DataLoader workers.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from loadtune.errors import TooManyBadSamplesError
from loadtune.records.settings import WorkloadSpec
from loadtune.records.stored import Shards
from loadtune.workload.decode import BrokenFileError, decode_labels, decode_photograph
from loadtune.workload.masks import IGNORE_LABEL, fill, map_colours
from loadtune.workload.sources import BrokenSampleError, SampleSource, checked, describe_failure
from loadtune.workload.transform import apply_cut, draw_cut, finish

REPLACEMENT_ATTEMPTS = 64
"""Samples tried in a row. With fewer, one broken folder in a good data set ends the trial."""


class Faults(NamedTuple):
    """What went wrong in one process since it was last asked."""

    bad_samples: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every broken sample met; one met in two epochs is listed twice."""
    pixels_seen: int = 0
    """Mask pixels delivered, padding apart."""
    pixels_ignored: int = 0
    """Those among them whose label was outside the classes and became ignore."""


class Preparation:
    """Turns images and masks into samples, and remembers what went wrong. Each process has a copy of its own.

    Args:
        spec: crop_px, base_size_px, augment, class_count, is_binary_mask and masks are used.
    """

    def __init__(self, spec: WorkloadSpec) -> None:
        self._spec = spec
        self._bad_samples: list[tuple[str, str]] = []
        self._pixels_seen = 0
        self._pixels_ignored = 0

    def prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (image (3, crop_px, crop_px) float32, labels (crop_px, crop_px) int64)."""
        height, width = mask.shape[-2:]
        image, mask = apply_cut(image, mask, draw_cut(height, width, self._spec))
        labels, ignored = map_labels(mask[0], self._spec)
        self._pixels_seen += labels.numel()
        self._pixels_ignored += ignored
        return finish(image, labels, self._spec.crop_px)

    def note_broken(self, error: BrokenSampleError) -> tuple[str, str]:
        """Remember a broken sample and return its path and the reason."""
        path, reason = error.args
        self._bad_samples.append((path, reason))
        return path, reason

    def take_faults(self) -> Faults:
        """Return what happened in this process since the last call."""
        faults = Faults(tuple(self._bad_samples), self._pixels_seen, self._pixels_ignored)
        self._bad_samples.clear()
        self._pixels_seen = self._pixels_ignored = 0
        return faults


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """Map-style data set of (image (3, crop_px, crop_px) float32, labels (crop_px, crop_px) int64).

    A broken sample is recorded and replaced by the next good one, so that a batch keeps its size.

    Args:
        source: The samples. It is handed on as it is, so that it decides how it reaches the workers.
        spec: As for `Preparation`.
    """

    def __init__(self, source: SampleSource, spec: WorkloadSpec) -> None:
        self.source = source
        self._preparation = Preparation(spec)
        self._read, self._prepare = source.read, self._preparation.prepare

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a sample, or its next good neighbour.

        Raises:
            TooManyBadSamplesError: The sample and the 63 after it are broken.
        """
        attempts = min(REPLACEMENT_ATTEMPTS, len(self))
        path = reason = ""
        for position in range(number, number + attempts):
            try:
                image, mask = self._read(position % len(self))
            except BrokenSampleError as error:
                path, reason = self._preparation.note_broken(error)
            else:
                return self._prepare(image, mask)
        raise _too_many(attempts, path, reason)

    def time_parts(self, timed: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
        """Have the parts of a sample timed.

        Args:
            timed: Takes a name and a callable, and returns one that does the same.
        """
        self._read = timed("reading and decoding", self._read)
        self._prepare = timed("scaling, cropping and labels", self._prepare)

    def take_faults(self) -> Faults:
        """Return what happened in this process since the last call. A worker calls it once a batch."""
        return self._preparation.take_faults()


class ShardDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """The samples of tar files, each worker reading files of its own, as `webdataset` deals them out.

    A broken sample is recorded and left out.

    Args:
        shards: The files.
        spec: As for `Preparation`.
        sample_count: Samples in all files, as estimated.
    """

    def __init__(self, shards: Shards, spec: WorkloadSpec, sample_count: int | None = None) -> None:
        self._shards = shards
        self.masks = spec.masks
        self._preparation = Preparation(spec)
        self.sample_count = sample_count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples of this worker's files once.

        Raises:
            TooManyBadSamplesError: 64 samples in a row are broken.
        """
        broken = 0
        for reading in self.readings():
            if isinstance(reading, BrokenSampleError):
                path, reason = self._preparation.note_broken(reading)
                broken += 1
                if broken == REPLACEMENT_ATTEMPTS:
                    raise _too_many(broken, path, reason)
                continue
            broken = 0
            yield self._preparation.prepare(*reading)

    def readings(self) -> Iterator[tuple[Tensor, Tensor] | BrokenSampleError]:
        """Yield each sample's image and mask, or what is wrong with it."""
        import webdataset

        stream = webdataset.WebDataset(
            list(self._shards.paths),
            shardshuffle=False,
            nodesplitter=None,
            workersplitter=webdataset.split_by_worker,
            empty_check=False,
        )
        for sample in stream:
            try:
                yield self._read(sample)
            except BrokenSampleError as error:
                yield error

    def take_faults(self) -> Faults:
        """Return what happened in this process since the last call. A worker calls it once a batch."""
        return self._preparation.take_faults()

    def _read(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        name = f"{sample.get('__url__', '')}: {sample.get('__key__', '')}"
        try:
            image = decode_photograph(_member(sample, self._shards.image_extensions))
            content = _member(sample, self._shards.mask_extensions)
            if self.masks.kind == "fill":
                mask = fill(int(content), image.shape[-2], image.shape[-1])
            else:
                mask = decode_labels(content)
        except (BrokenFileError, ValueError) as error:
            raise describe_failure(name, error) from error
        return checked(image, mask, name)


def _member(sample: dict[str, Any], extensions: tuple[str, ...]) -> bytearray:
    for extension in extensions:
        if extension in sample:
            return bytearray(sample[extension])
    raise BrokenFileError(f"it has no .{extensions[0]}")


def _too_many(attempts: int, path: str, reason: str) -> TooManyBadSamplesError:
    return TooManyBadSamplesError(
        f"{attempts} samples in a row cannot be read, the last {path}: {reason}",
        "repair or remove them; `--max-bad` bounds how many may be skipped",
    )


def map_labels(mask: Tensor, spec: WorkloadSpec) -> tuple[Tensor, int]:
    """Return int64 labels a loss can take, and how many pixels were outside the classes.

    A binary mask's non-zero values become class 1. Elsewhere 255 is ignore, and so becomes every label below
    0, at or above class_count, which on CUDA would end in a device-side assertion, and every colour without a class.
    """
    if spec.is_binary_mask:
        return (mask != 0).to(torch.int64), 0
    is_coloured = spec.masks.kind == "colours"
    labels = map_colours(mask, spec.masks.palette) if is_coloured else mask.to(torch.int64)
    is_outside = ((labels >= spec.class_count) | (labels < 0)) & (labels != IGNORE_LABEL)
    return labels.masked_fill_(is_outside, IGNORE_LABEL), int(is_outside.sum())
