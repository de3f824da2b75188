"""How does a mask come about that is no label map in a file of its own? By the kinds of `records.stored.MaskKind`."""

import warnings
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from loadtune.records.stored import Masks
from loadtune.workload.decode import BrokenFileError, read_colours, read_mask

IGNORE_LABEL = 255
"""PASCAL VOC's void label, which the loss leaves out. Padding carries it too."""

ADE20K_RED_STEP, ADE20K_GREEN_VALUES = 10, 256
"""The full ADE20K writes class c as red c // 256 * 10 and green c % 256 (its own index_ade20k.py)."""


def make_mask(reference: str, masks: Masks, height: int, width: int) -> Tensor:
    """Return the mask of an image as (1, height, width), uint8 or int32.

    Its values are labels, but for kind "colours", whose colours (0xRRGGBB) `map_colours` turns into labels once the
    crop is cut: there are fewer of them then.

    Args:
        reference: A path; for most kinds a path, a newline and a line of text.
        masks: The kind.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        BrokenFileError: A file cannot be read, or what it holds makes no mask.
    """
    if masks.kind == "labels":
        return read_mask(reference)
    if masks.kind == "colours":
        return read_colours(reference)
    if masks.kind == "ade20k":
        return _ade20k(reference)
    holder, newline, text = reference.rpartition("\n")
    if masks.kind == "parts":
        return _unite(holder, text) if newline else (read_mask(reference) != 0).to(torch.uint8)
    if masks.kind == "fill":
        return fill(int(text), height, width)
    try:
        if masks.kind == "segments":
            return _segments(holder, msgspec.json.decode(text, type=list[tuple[int, int]]))
        return draw_objects(msgspec.json.decode(text), height, width)
    except (msgspec.DecodeError, RecursionError, UnicodeError, OverflowError, RuntimeError) as error:
        raise BrokenFileError(f"its annotation cannot be used: {error}") from error


def fill(label: int, height: int, width: int) -> Tensor:
    """Return a mask of one label, (1, height, width) int32.

    Raises:
        BrokenFileError: No int32 holds the label.
    """
    if not -(2**31) <= label < 2**31:
        raise BrokenFileError(f"{label} is no class")
    return torch.full((1, height, width), label, dtype=torch.int32)


def map_colours(mask: Tensor, palette: tuple[int, ...]) -> Tensor:
    """Return the class of each colour (0xRRGGBB), int64 of the same shape; -1 where the palette has it not."""
    return _look_up(mask, palette, range(len(palette)), -1)


def _look_up(values: Tensor, known: "tuple[int, ...] | list[int]", labels: Any, otherwise: int) -> Tensor:
    """Return for each value the label that stands at its place in `known`."""
    order = sorted(range(len(known)), key=known.__getitem__)
    keys = torch.tensor([known[place] for place in order], dtype=torch.int64)
    targets = torch.tensor([labels[place] for place in order], dtype=torch.int64)
    wide = values.to(torch.int64)
    places = torch.searchsorted(keys, wide).clamp_(max=len(known) - 1)
    return torch.where(keys[places] == wide, targets[places], otherwise)


def _unite(folder: str, text: str) -> Tensor:
    """Return the union of several masks, whose names stand in one line between slashes."""
    united: Tensor | None = None
    for name in text.split("/"):
        part = read_mask(f"{folder}/{name}") != 0
        if united is not None and united.shape != part.shape:
            raise BrokenFileError(f"its mask {name} has another size than those before it")
        united = part if united is None else united | part
    if united is None:
        raise BrokenFileError("it has no mask")
    return united.to(torch.uint8)


def _ade20k(path: str) -> Tensor:
    colours = read_colours(path)
    red, green = colours >> 16, (colours >> 8) & 0xFF
    return torch.div(red, ADE20K_RED_STEP, rounding_mode="floor") * ADE20K_GREEN_VALUES + green


def _segments(path: str, classes: list[tuple[int, int]]) -> Tensor:
    """Return a panoptic file's classes; what has no segment is ignored. Its number is red + 256 green + 65536 blue."""
    colours = read_colours(path)
    numbers = (colours >> 16) | (colours & 0xFF00) | ((colours & 0xFF) << 16)
    if not classes:
        return torch.full_like(numbers, IGNORE_LABEL)
    segments, labels = zip(*classes, strict=True)
    return _look_up(numbers, segments, labels, IGNORE_LABEL).to(torch.int32)


def draw_objects(objects: Any, height: int, width: int) -> Tensor:
    """Return a mask of COCO's objects, the later over the earlier, (1, height, width) uint8 or int32.

    Args:
        objects: [label, segmentation] of each, where a segmentation is a list of polygons [x, y, x, y ...] or run
            lengths {"size": [height, width], "counts": ...}.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        BrokenFileError: A segmentation is none.
    """
    mask = np.zeros((height, width), np.int32)
    try:
        with warnings.catch_warnings():  # pycocotools calls numpy as numpy 2 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            for label, segmentation in objects:
                mask[_decode_object(segmentation, height, width) != 0] = label
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise BrokenFileError(f"its segmentation is none of COCO's: {error}") from error
    return torch.from_numpy(mask)[None]


def _decode_object(segmentation: Any, height: int, width: int) -> Any:
    """Return an object as (height, width) uint8. What is handed to the C code is bounded here."""
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths for {segmentation['size']}, the image has {[height, width]}")
        if isinstance(counts, str):
            if sum(_run_lengths(counts)) != height * width:
                raise ValueError("run lengths that do not fill the image")
            return coco.decode({"size": [height, width], "counts": counts.encode()})
        runs = np.asarray(counts, dtype=np.int64)
        if runs.min(initial=0) < 0 or runs.sum() != height * width:
            raise ValueError("run lengths that do not fill the image")
        return coco.decode(coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))
    polygons = [_clipped(points, height, width) for points in segmentation]
    polygons = [points for points in polygons if len(points) >= 6]
    if not polygons:
        return np.zeros((height, width), np.uint8)
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width)))


def _run_lengths(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed form: five bits a letter, each from the third on by its difference.

    Raises:
        ValueError: A letter that the form has not, or a run below nothing.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} in run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= 1 << shift if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or min(runs, default=0) < 0:
        raise ValueError("run lengths that are cut short or negative")
    return runs


def _clipped(points: Any, height: int, width: int) -> list[float]:
    """Return a polygon within the image: the C code allocates by its length, whatever that is."""
    pairs = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(pairs).all():
        raise ValueError("a polygon whose corners are no numbers")
    clipped: list[float] = np.clip(pairs, 0.0, [width, height]).ravel().tolist()
    return clipped
