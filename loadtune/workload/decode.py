"""What pixels does a file hold? Regular files only, by torchvision, or Pillow where that cannot.

It applies no EXIF orientation, as DataLoaders of image-mask pairs do not, and it knows nothing of classes.
"""

import os
import stat
import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

FILE_LIMIT_BYTES = 2**30
"""Largest file that is read. Without it a mistaken file (a disk image, a video) fills the host's memory."""

_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow's plugins raise on broken files (Pillow 10 to 13); SyntaxError: its PNG plugin's."""


class BrokenFileError(Exception):
    """A file that holds no usable pixels. Its only argument is the reason, in one line."""


class ColoursError(BrokenFileError):
    """A mask whose pixels are colours, where labels were expected."""


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Return the photograph in a file, as `decode_photograph` does.

    Raises:
        BrokenFileError: Not a regular file, not to be opened, empty, too large, or not to be decoded.
    """
    return decode_photograph(read_file(path))


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """Return the labels in a file, as `decode_labels` does.

    Raises:
        ColoursError: Colours where labels are expected.
        BrokenFileError: As for `read_image`.
    """
    return decode_labels(read_file(path))


def decode_photograph(content: bytearray) -> Tensor:
    """Return a photograph as (3, H, W) uint8, its 16-bit channels cut to their upper 8 bits.

    Raises:
        BrokenFileError: It cannot be decoded.
    """
    image = _decode(content, is_mask=False)
    return (image.to(torch.int32) >> 8).to(torch.uint8) if image.dtype == torch.uint16 else image


def decode_labels(content: bytearray) -> Tensor:
    """Return a mask as (1, H, W), uint8 or int32, its values as stored: palette indices stay indices.

    A 1-bit file gives 0 and 255. Alpha is dropped. Colour channels must agree, or the file is no label map;
    a GIF's palette counts as colours, since GIF writers renumber it.

    Raises:
        ColoursError: Colours where labels are expected.
        BrokenFileError: It cannot be decoded.
    """
    return _labels_only(_decode(content, is_mask=True))


def _labels_only(mask: Tensor) -> Tensor:
    mask = mask.to(torch.int32) if mask.dtype == torch.uint16 else mask
    colours = mask[:3] if mask.shape[0] >= 3 else mask[:1]
    if not torch.equal(colours, colours[:1].expand_as(colours)):
        raise ColoursError("its pixels are colours, not labels: a mask has one channel or a palette")
    return colours[:1]


def read_colours(path: str | os.PathLike[str]) -> Tensor:
    """Return the colours in a file as (1, H, W) int32, each 0xRRGGBB. Alpha is dropped, grey is a colour too.

    Raises:
        BrokenFileError: As for `read_image`.
    """
    image = read_image(path).to(torch.int32)
    colours: Tensor = image[0:1] << 16 | image[1:2] << 8 | image[2:3]
    return colours


def read_file(path: str | os.PathLike[str]) -> bytearray:
    """Return a file's bytes. The check precedes the open: opening a FIFO blocks, opening a device may act.

    Raises:
        BrokenFileError: Not a regular file, not to be opened, empty, or too large.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise BrokenFileError("not a regular file")
        if status.st_size == 0:
            raise BrokenFileError("empty file")
        if status.st_size > FILE_LIMIT_BYTES:
            raise BrokenFileError(f"{status.st_size} bytes, over the limit of {FILE_LIMIT_BYTES}")
        content = bytearray(status.st_size)
        with Path(path).open("rb") as file:
            del content[file.readinto(content) :]
    except OSError as error:
        raise BrokenFileError(error.strerror or str(error)) from error
    return content


def _decode(content: bytearray, *, is_mask: bool) -> Tensor:
    """Decode with torchvision, then with Pillow; the latter's message names the fault."""
    mode = ImageReadMode.UNCHANGED if is_mask else ImageReadMode.RGB
    try:
        with warnings.catch_warnings():  # torchvision 0.29 deprecates its decoders in favour of torchcodec's
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels: Tensor = decode_image(torch.frombuffer(content, dtype=torch.uint8), mode)
    except RuntimeError:
        pass  # BMP, TIFF, AVIF or broken: Pillow tells which
    else:
        return pixels[0] if pixels.ndim == 4 else pixels  # an animation's first frame
    try:
        with Image.open(BytesIO(content)) as image:
            return _mask_from_pillow(image) if is_mask else photograph_from_pillow(image)
    except UnidentifiedImageError as error:
        raise BrokenFileError("not an image that torchvision or Pillow can read") from error
    except _PILLOW_ERRORS as error:
        raise BrokenFileError(str(error) or type(error).__name__) from error


def photograph_from_pillow(image: Image.Image) -> Tensor:
    """Return Pillow's picture as (3, H, W) uint8.

    Raises:
        OSError: It was opened, and not read yet, and is broken; or what else Pillow raises then.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion to RGB clips at 255
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return torch.from_numpy(grey).expand(3, -1, -1)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def labels_from_pillow(image: Image.Image) -> Tensor:
    """Return Pillow's picture as labels, as `decode_labels` does.

    Raises:
        ColoursError: Colours where labels are expected.
        BrokenFileError: Fractions.
    """
    return _labels_only(_mask_from_pillow(image))


def _mask_from_pillow(image: Image.Image) -> Tensor:
    values = np.array(image)
    if values.dtype.kind == "f":
        raise BrokenFileError("its pixels are fractions, not labels")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype != np.uint8:
        values = values.astype(np.int32)
    mask = torch.from_numpy(values)
    return mask[None] if mask.ndim == 2 else mask.permute(2, 0, 1)
