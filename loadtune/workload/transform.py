"""How does a decoded pair become a training sample? DeepLab's way: scale, crop, flip, normalise, pad.

The crop is cut from the source before it is resized: a photograph of 24 megapixels costs what its crop costs.
All draws come from torch's global generator, which DataLoader seeds apart in each worker.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812 - torchvision's own name for it

from loadtune.records.settings import WorkloadSpec
from loadtune.workload.masks import IGNORE_LABEL

SCALE_MIN, SCALE_MAX = 0.5, 2.0
"""DeepLab's random scale (arXiv 1706.05587, section 4.1), here of the short side relative to base_size_px."""

FLIP_PROBABILITY = 0.5

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's ResNets expect. Padding with 0 after normalising is padding with this mean."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A region of the source, in source pixels, and the size in pixels it is resized to."""

    top: int
    left: int
    height: int
    width: int
    resized_height: int
    resized_width: int
    is_flipped: bool


def draw_cut(height: int, width: int, spec: WorkloadSpec) -> Cut:
    """Choose what becomes of a source of this size; four random numbers are drawn unless `augment` is "none".

    The result is that of resizing the whole source and cropping it, but that the region is rounded outwards
    to whole source pixels.
    """
    if spec.augment == "deeplab":
        scale_draw, top_draw, left_draw, flip_draw = torch.rand(4).tolist()
        short_side_px = spec.base_size_px * (SCALE_MIN + (SCALE_MAX - SCALE_MIN) * scale_draw)
    else:
        short_side_px, top_draw, left_draw, flip_draw = float(spec.base_size_px), 0.5, 0.5, 1.0
    scale = short_side_px / min(height, width)
    top, cut_height, resized_height = _cut_side(height, scale, spec.crop_px, top_draw)
    left, cut_width, resized_width = _cut_side(width, scale, spec.crop_px, left_draw)
    is_flipped = flip_draw < FLIP_PROBABILITY
    return Cut(top, left, cut_height, cut_width, resized_height, resized_width, is_flipped)


def _cut_side(side: int, scale: float, crop_px: int, draw: float) -> tuple[int, int, int]:
    """Return one side's start and length in the source, and its length after resizing."""
    scaled = max(1, round(side * scale))
    kept = min(scaled, crop_px)
    offset = int(draw * (scaled - kept + 1))
    per_pixel = side / scaled
    start = min(side - 1, math.floor(offset * per_pixel))
    end = min(side, math.ceil((offset + kept) * per_pixel))
    return start, max(1, end - start), kept


def apply_cut(image: Tensor, mask: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Cut, resize and flip an image (3, H, W) uint8 and its mask (1, H, W) alike; labels are not mixed."""
    region = (cut.top, cut.left, cut.height, cut.width, [cut.resized_height, cut.resized_width])
    image = F.resized_crop(image, *region, interpolation=InterpolationMode.BILINEAR, antialias=True)
    # NEAREST_EXACT samples pixel centres as BILINEAR does; NEAREST shifts the mask by half an output pixel.
    mask = F.resized_crop(mask, *region, interpolation=InterpolationMode.NEAREST_EXACT)
    if cut.is_flipped:
        image, mask = F.horizontal_flip(image), F.horizontal_flip(mask)
    return image, mask


def finish(image: Tensor, labels: Tensor, crop_px: int) -> tuple[Tensor, Tensor]:
    """Normalise an image (3, h, w) uint8; pad it and its labels (h, w) at the right and bottom to crop_px."""
    height, width = labels.shape
    padding = [0, 0, crop_px - width, crop_px - height]
    image = F.normalize(F.to_dtype(image, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))
    if any(padding):
        image = F.pad(image, padding, fill=0.0)
        labels = F.pad(labels[None], padding, fill=IGNORE_LABEL)[0]
    return image, labels
