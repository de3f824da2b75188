"""Where do images and masks come from, one sample at a time? Files in pairs, rows of tables, a user's own pictures."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loadtune.records.stored import PLAIN_MASKS, Masks, Rows
from loadtune.workload.decode import (
    BrokenFileError,
    ColoursError,
    decode_labels,
    decode_photograph,
    labels_from_pillow,
    photograph_from_pillow,
    read_file,
    read_image,
)
from loadtune.workload.masks import draw_objects, fill, make_mask


class PairSource(Protocol):
    """The listed pairs, as `loadtune.dataset.index.PairIndex` holds them."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def pair(self, number: int, /) -> tuple[str, str]:
        """Return the paths of an image and its mask."""

    def files(self, number: int, /) -> tuple[str, ...]:
        """Return the paths of all files behind a pair."""


class BrokenSampleError(Exception):
    """A sample that cannot be trained on. Arguments: its path or name, as printable text, and the reason."""

    has_colours = False
    """Whether it is so only because its mask's pixels are colours."""


class SampleSource(Protocol):
    """Samples that are read one by one, in any order and in any process."""

    masks: Masks

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, number: int, /) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its mask (1, H, W) uint8 or int32.

        Raises:
            BrokenSampleError: One of them cannot be read, or their sizes differ.
        """

    def nbytes(self, number: int, /) -> int | None:
        """Return the stored bytes of a sample; None where they are not known."""


class FilePairs:
    """Image files, and masks that are files or made by `masks.make_mask`."""

    def __init__(self, index: PairSource, masks: Masks = PLAIN_MASKS) -> None:
        self.index = index
        self.masks = masks

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int, /) -> tuple[Tensor, Tensor]:
        """Return an image and its mask."""
        image_path, mask_path = self.index.pair(number)
        path = image_path
        try:
            image = read_image(path)
            path = mask_path
            mask = make_mask(mask_path, self.masks, image.shape[-2], image.shape[-1])
        except BrokenFileError as error:
            shown = path if "\n" not in path or os.path.exists(path) else image_path  # noqa: PTH110 - paths are text
            raise describe_failure(shown, error) from error
        return checked(image, mask, image_path)

    def nbytes(self, number: int, /) -> int | None:
        """Return the bytes of the files."""
        return sum(Path(path).stat().st_size for path in self.index.files(number))


class TableRows:
    """Rows of a Hugging Face data set on disk, decoded as files are.

    Args:
        rows: Where they are, and which columns.
        masks: Kind "labels" or "fill".
    """

    def __init__(self, rows: Rows, masks: Masks) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        import datasets

        self.masks = masks
        self._image, self._mask = rows.image_column, rows.mask_column
        columns = [rows.image_column, rows.mask_column]
        table: Any = (
            datasets.load_from_disk(rows.paths[0]).select_columns(columns)
            if rows.format == "arrow"
            else datasets.Dataset.from_parquet(list(rows.paths), columns=columns)
        )
        table = table.cast_column(rows.image_column, datasets.Image(decode=False))
        if masks.kind != "fill":
            table = table.cast_column(rows.mask_column, datasets.Image(decode=False))
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def read(self, number: int, /) -> tuple[Tensor, Tensor]:
        """Return an image and its mask."""
        row = self._table[number]
        try:
            image = decode_photograph(_cell_bytes(row[self._image]))
            if self.masks.kind == "fill":
                return image, fill(int(row[self._mask]), image.shape[-2], image.shape[-1])
            mask = decode_labels(_cell_bytes(row[self._mask]))
        except (BrokenFileError, TypeError) as error:
            raise describe_failure(f"row {number}", error) from error
        return checked(image, mask, f"row {number}")

    def nbytes(self, number: int, /) -> int | None:
        """Return the bytes of a row's two cells."""
        row = self._table[number]
        return sum(len(cell["bytes"] or b"") for cell in row.values() if isinstance(cell, dict))


class Pictures:
    """A data set of the user's own whose samples are pictures: (PIL image, and what `_mask_of_target` takes).

    Args:
        dataset: Map-style.
        masks: Kind "labels"; the targets' own types decide.
    """

    def __init__(self, dataset: Any, masks: Masks = PLAIN_MASKS) -> None:
        self.dataset = dataset
        self.masks = masks

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, number: int, /) -> tuple[Tensor, Tensor]:
        """Return an image and its mask. What the data set itself raises is the user's, and passes."""
        picture, target = self.dataset[number]
        try:
            image = photograph_from_pillow(picture)
            mask = _mask_of_target(target, image.shape[-2], image.shape[-1])
        except BrokenFileError as error:
            raise describe_failure(f"sample {number}", error) from error
        return checked(image, mask, f"sample {number}")

    def nbytes(self, number: int, /) -> int | None:
        """Return None: what the data set reads is its own affair."""


def checked(image: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return both if their sizes agree.

    Raises:
        BrokenSampleError: They do not.
    """
    if image.shape[-2:] != mask.shape[-2:]:
        sizes = [f"{width}x{height}" for height, width in (image.shape[-2:], mask.shape[-2:])]
        raise BrokenSampleError(printable(name), f"{sizes[0]} pixels, its mask {sizes[1]}")
    return image, mask


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path as text that JSON can hold: a name that is not UTF-8 keeps the rest of its letters."""
    return os.fsencode(path).decode("utf-8", "replace")


def describe_failure(name: str, error: Exception) -> BrokenSampleError:
    """Return what is to be said of a sample that cannot be read."""
    broken = BrokenSampleError(printable(name), str(error))
    broken.has_colours = isinstance(error, ColoursError)
    return broken


def _cell_bytes(cell: Any) -> bytearray:
    """Return the bytes of an image cell, which holds them or the path of a file.

    Raises:
        BrokenFileError: It holds neither.
    """
    if isinstance(cell, dict) and cell.get("bytes"):
        return bytearray(cell["bytes"])
    if isinstance(cell, dict) and cell.get("path"):
        return read_file(cell["path"])
    raise BrokenFileError("empty cell")


def _mask_of_target(target: Any, height: int, width: int) -> Tensor:
    """Return the mask that a torchvision data set's target stands for.

    A picture holds labels, a number is the class of the whole image, a list of annotations (COCO's) holds objects;
    of several targets the first that makes a mask counts.

    Raises:
        BrokenFileError: It makes none.
    """
    if isinstance(target, Image.Image):
        return labels_from_pillow(target)
    if isinstance(target, int | np.integer):
        return fill(int(target), height, width)
    if isinstance(target, np.ndarray) and target.ndim == 2:
        return torch.from_numpy(target.astype(np.int32))[None]
    if isinstance(target, tuple):
        for each in target:
            if isinstance(each, Image.Image | int | np.ndarray):
                return _mask_of_target(each, height, width)
    if isinstance(target, list) and all(isinstance(each, dict) and "segmentation" in each for each in target):
        return draw_objects([[each["category_id"], each["segmentation"]] for each in target], height, width)
    raise BrokenFileError(f"its target is a {type(target).__qualname__}, of which no mask can be made")
