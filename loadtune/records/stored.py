"""What does a data set on disk hold besides pairs of files? How its masks are to be read, rows of tables, shards."""

from typing import Annotated, Literal

from msgspec import Meta

from loadtune.records.record import Record

MaskKind = Literal["labels", "colours", "fill", "objects", "segments", "parts", "ade20k"]
"""labels: a file whose pixels are classes; colours: a file whose colours are classes, by `Masks.palette`; fill: the
sample's one class fills it; objects: COCO's polygons and run lengths; segments: COCO's panoptic files, whose colours
are numbers of segments; parts: several files, each with an object of class 1; ade20k: the full ADE20K's files, whose
red and green channels hold the class."""


class Masks(Record, frozen=True, kw_only=True):
    """How a mask is made of what the data set holds."""

    kind: Annotated[MaskKind, Meta(description="What a mask is made of.")] = "labels"
    palette: Annotated[
        tuple[int, ...], Meta(description="Colours as 0xRRGGBB, by class; used where masks are colours.")
    ] = ()
    class_count: Annotated[int | None, Meta(description="As the data set's own files say; None: they do not.")] = None


PLAIN_MASKS = Masks()
"""Files whose pixels are classes: what a mask is unless a layout says otherwise."""


PLAIN_MASKS = Masks()
"""Files whose pixels are classes: what a mask is unless a layout says otherwise."""


class Rows(Record, frozen=True, kw_only=True, tag="rows"):
    """Tables of a Hugging Face data set."""

    format: Literal["arrow", "parquet"]
    paths: Annotated[tuple[str, ...], Meta(description="The saved data set's folder (arrow), or files (parquet).")]
    image_column: str
    mask_column: str


class Shards(Record, frozen=True, kw_only=True, tag="shards"):
    """Tar files whose members with one stem are one sample, in the order of the files."""

    paths: tuple[str, ...]
    image_extensions: Annotated[tuple[str, ...], Meta(description="Any of these holds the image, such as jpg.")]
    mask_extensions: Annotated[tuple[str, ...], Meta(description="Any of these holds the mask, such as mask.png.")]


Stored = Rows | Shards
