"""Is it COCO? Annotation files (instances_val2017.json, panoptic_val2017.json) beside folders of images.

An annotation file is read once, here. What a mask is made of travels in the index: the polygons and run lengths of its
objects as JSON, or the panoptic file with the classes of its segments.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtune.dataset.candidate import Candidate, Collected, MadeCandidate, Search
from loadtune.dataset.leftout import NO_MASK, NOT_THERE, join, printable, printable_folder
from loadtune.dataset.matching import Group
from loadtune.dataset.tree import Tree
from loadtune.errors import DatasetError, UsageError
from loadtune.records.stored import Masks

JSON_LIMIT_BYTES = 2**32
"""Largest annotation file that is read: nine times COCO's own. It is held in memory while it is."""
KINDS = ("instances", "stuff", "panoptic")
"""What annotation files of segmentations begin with. Key points and captions have no masks."""

_FILE = re.compile(rf"^(?P<kind>{'|'.join(KINDS)})_(?P<split>.+)\.json$".encode())
_ROBOFLOW = re.compile(rb"^_annotations\.coco(?:-segmentation)?\.json$")
"""Lies among the images of a split, as some exporters write it."""
_YEAR = re.compile(r"(?:19|20)\d\d$")


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Category(msgspec.Struct):
    id: int


class _Segment(msgspec.Struct):
    id: int
    category_id: int


class _Annotation(msgspec.Struct):
    """Of one object (`segmentation`), or of one image (`file_name`, `segments_info`)."""

    image_id: int
    category_id: int = -1
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    file_name: str = ""
    segments_info: list[_Segment] = []


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Source(NamedTuple):
    """An annotation file and the folders in which its images may lie."""

    path: bytes
    split: str
    image_folders: tuple[bytes, ...]


class Coco:
    """The layout of the COCO data set, and of exports in its format."""

    name = "coco"
    looked_for = "annotations/instances_*.json or panoptic_*.json with the images they name"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the first kind of annotations that is there, or the one asked for.

        Raises:
            UsageError: Another kind was asked for.
        """
        if len(folders) > 1 or not set(folders) <= set(KINDS):
            raise UsageError(
                f"--layout coco:{':'.join(folders)} is no kind of annotations",
                f"write one of: {', '.join(f'coco:{kind}' for kind in KINDS)}",
            )
        if search is Search.ANYWHERE:
            return []
        tops = [b""] if search is Search.USUAL else list(tree.folder(b"").folders)
        return [found for top in tops for found in _candidates(tree, top, folders or KINDS)]


def _candidates(tree: Tree, top: bytes, kinds: tuple[str, ...]) -> Iterator[Candidate]:
    for kind in kinds:
        sources = list(_named(tree, top, kind)) or (list(_exported(tree, top)) if kind == "instances" else [])
        if sources:
            yield MadeCandidate(
                layout=Coco.name,
                chosen_by=f"the sub-folder {printable_folder(top)}",
                folders=frozenset(folder for source in sources for folder in source.image_folders),
                splits=tuple(sorted({source.split for source in sources})),
                collect=partial(_collect, tree, kind, sources),
            )
            return


def _named(tree: Tree, top: bytes, kind: str) -> Iterator[_Source]:
    """Yield `annotations/instances_val2017.json` with val2017/ or images/val2017/."""
    for place in (join(top, b"annotations"), top):
        for name in sorted(tree.folder(place).files):
            match = _FILE.match(name)
            if match and match["kind"].decode() == kind:
                split = match["split"]
                spots = (join(top, split), join(top, b"images/" + split), join(top, b"images"), top)
                label = _YEAR.sub("", split.decode("utf-8", "replace")) or split.decode("utf-8", "replace")
                yield _Source(join(place, name), label, tuple(spot for spot in spots if tree.folder(spot).real))


def _exported(tree: Tree, top: bytes) -> Iterator[_Source]:
    """Yield `train/_annotations.coco.json`, which lies among its images."""
    for split in tree.folder(top).folders:
        place = join(top, split)
        for name in tree.folder(place).files:
            if _ROBOFLOW.match(name):
                yield _Source(join(place, name), split.decode("utf-8", "replace"), (place,))


def _collect(tree: Tree, kind: str, sources: list[_Source], split: str | None) -> Collected:
    """Read the annotation files of a split; classes are numbered from 1 by category id, 0 is what none covers."""
    if kind != "panoptic" and find_spec("pycocotools") is None:
        raise DatasetError(
            "COCO's polygons and run lengths need pycocotools, which is not installed",
            "install it: pip install 'loadtune-probe[coco]'",
        )
    used = [source for source in sources if split in {None, source.split}]
    files = {source: _read(tree, source.path) for source in used}
    ids = sorted({category.id for file in files.values() for category in file.categories})
    classes = {category: number for number, category in enumerate(ids, start=1)}
    masks = Masks(kind="segments" if kind == "panoptic" else "objects", class_count=max(2, len(ids) + 1))
    collected = Collected(masks=masks)
    for source, file in files.items():
        _group(tree, kind, source, file, classes, collected)
    named = printable(sources[0].path if not used else used[0].path)
    more = f" and {len(used) - 1} more" if len(used) > 1 else ""
    collected.described = f"COCO {kind}: {named}{more} ({len(ids)} classes and background)"
    return collected


def _read(tree: Tree, path: bytes) -> _File:
    """Return an annotation file. Segmentations stay as they are written, unread: they are most of it.

    Raises:
        DatasetError: It cannot be read, or is of another form.
    """
    shown = printable(path)
    file = Path(os.fsdecode(tree.root + b"/" + path))
    try:
        if file.stat().st_size > JSON_LIMIT_BYTES:
            raise DatasetError(f"{shown} is larger than {JSON_LIMIT_BYTES} bytes", "split it, or give its pairs")
        return msgspec.json.decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=_File)
    except OSError as error:
        raise DatasetError(f"{shown} cannot be read: {error.strerror}", "check its permissions") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(
            f"{shown} is no annotation file of COCO's form: {error}",
            "it holds images (id, file_name), annotations (image_id, category_id, segmentation) and categories (id)",
        ) from error


def _group(tree: Tree, kind: str, source: _Source, file: _File, classes: dict[int, int], collected: Collected) -> None:
    """Add the images that are there and annotated, each under the folder it lies in."""
    texts = _segments(tree, source, file, classes) if kind == "panoptic" else _objects(file, classes)
    groups = {folder: Group(folder, b"") for folder in source.image_folders}
    names = {folder: frozenset(tree.folder(folder).files) for folder in source.image_folders}
    for image in file.images:
        parent, _, name = os.fsencode(image.file_name).rpartition(b"/")
        folder = next((spot for spot in source.image_folders if name in names[spot]), None)
        below = [join(spot, parent) for spot in source.image_folders] if parent else []
        for spot in below:  # a path of its own is more than a name
            if spot not in names:
                names[spot] = frozenset(tree.folder(spot).files) if b".." not in spot.split(b"/") else frozenset()
                groups[spot] = Group(spot, b"")
            folder = spot if name in names[spot] else folder
        text = texts.get(image.id)
        if folder is None:
            collected.left_out.add(NOT_THERE, name)
        elif text is None:
            collected.left_out.add(NO_MASK, join(folder, name))
        else:
            groups[folder].images.append(name)
            groups[folder].masks.append(text)
    collected.groups.extend(group for group in groups.values() if group.images)


def _objects(file: _File, classes: dict[int, int]) -> dict[int, bytes]:
    """Return by image a line of [class, segmentation] of each of its objects, in the order of the file."""
    parts: dict[int, list[bytes]] = {}
    for each in file.annotations:
        segmentation = bytes(each.segmentation)
        if segmentation and each.category_id in classes:
            item = b"[%d,%s]" % (classes[each.category_id], segmentation)
            parts.setdefault(each.image_id, []).append(item.replace(b"\n", b"").replace(b"\0", b""))
    return {image: b"\n[" + b",".join(items) + b"]" for image, items in parts.items()}


def _segments(tree: Tree, source: _Source, file: _File, classes: dict[int, int]) -> dict[int, bytes]:
    """Return by image its panoptic file and a line of [segment, class] pairs."""
    folder = source.path.removesuffix(b".json")
    there = frozenset(tree.folder(folder).files)
    found = {}
    for each in file.annotations:
        name = os.fsencode(each.file_name).rpartition(b"/")[2]
        if name in there:
            known = (segment for segment in each.segments_info if segment.category_id in classes)
            pairs = [(segment.id, classes[segment.category_id]) for segment in known]
            found[each.image_id] = join(folder, name) + b"\n" + msgspec.json.encode(pairs)
    return found
