"""Is it WebDataset? Tar files whose members with one stem are one sample: 0001.jpg and 0001.mask.png."""

import os
import re
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from loadtune.dataset.candidate import Candidate, Collected, MadeCandidate, Search
from loadtune.dataset.layouts.paired import MASK_FOLDERS, split_folders
from loadtune.dataset.leftout import join, printable
from loadtune.dataset.lists import SPLITS
from loadtune.dataset.matching import EXTENSIONS
from loadtune.dataset.tree import Tree
from loadtune.errors import DatasetError, UsageError
from loadtune.records.stored import Masks, Shards

GLANCE_LIMIT_S = 1.0
"""Seconds of reading headers, after which the number of samples is estimated from the bytes read so far."""
PATHS_BYTES_MAX = 100_000
"""Of all paths: they travel to each trial in one message."""
CLASS_EXTENSIONS = ("cls", "label")
"""Members that hold the number of the one class of a sample, as text."""

_SHARD = re.compile(rb"(?i)\.tar$")
_SPLIT = re.compile(rf"(?i)(?:^|[-_.])({'|'.join(SPLITS)})[-_.0-9]".encode())
"""Match `train` in `cityscapes-train-000012.tar`."""


class _Glance(NamedTuple):
    """What the first shards hold."""

    image_extensions: tuple[str, ...]
    mask_extensions: tuple[str, ...]
    samples: int
    read_bytes: int
    """Of the shards whose headers were read."""


class WebDataset:
    """Shards, by the convention of the webdataset package."""

    name = "webdataset"
    looked_for = "shards *.tar with image and mask members of one stem"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the shards at the top and in the split folders, if there are any.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError("--layout webdataset takes no folder names", "give the folder that holds the shards")
        if search is not Search.BELOW:  # what was unpacked from an archive comes before the archive beside it
            return []
        shards = dict(_shards(tree))
        if not shards:
            return []
        return [
            MadeCandidate(
                layout=self.name,
                chosen_by=f"--layout {self.name}",
                folders=frozenset(shard.rpartition(b"/")[0] for shard in shards),
                splits=tuple(sorted({split for split in shards.values() if split})),
                collect=partial(_collect, tree, shards),
            )
        ]


def _shards(tree: Tree) -> Iterator[tuple[bytes, str]]:
    """Yield each shard with the split that its folder or name says; an empty one where none is said."""
    for name in sorted(tree.folder(b"").files):
        if _SHARD.search(name):
            said = _SPLIT.search(name)
            yield name, said[1].decode().lower() if said else ""
    for split, place in split_folders(tree.folder(b"")).items():
        for name in sorted(tree.folder(place).files):
            if _SHARD.search(name):
                yield join(place, name), split


def _collect(tree: Tree, shards: dict[bytes, str], split: str | None) -> Collected:
    """Glance into the shards of a split.

    Raises:
        DatasetError: The package is missing, a path is not UTF-8, or no sample has image and mask.
    """
    if find_spec("webdataset") is None:
        raise DatasetError(
            "shards need webdataset, which is not installed", "install it: pip install 'loadtune-probe[webdataset]'"
        )
    used = [shard for shard, own in shards.items() if split in {None, own}]
    try:
        paths = tuple((tree.root + b"/" + shard).decode("utf-8") for shard in used)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"the path of {printable(used[0])} is not UTF-8, which shards need", "rename the folder"
        ) from error
    odd = next((path for path in paths if set("#?;") & set(path)), None)
    if odd is not None or sum(map(len, paths)) > PATHS_BYTES_MAX:
        what = "more shards than can be handed on" if odd is None else f"webdataset reads {odd!r} as an address"
        raise DatasetError(what, "rename it" if odd is not None else "give a folder with some of them")
    glance = _look(paths)
    total_bytes = sum(Path(path).stat().st_size for path in paths)
    count = round(glance.samples * total_bytes / max(1, glance.read_bytes))
    about = "" if glance.read_bytes >= total_bytes else "about "
    is_fill = glance.mask_extensions[0] in CLASS_EXTENSIONS
    image, mask = glance.image_extensions[0], glance.mask_extensions[0]
    filled = "; the class of an image fills its mask" if is_fill else ""
    shown = f"{len(paths)} shard{'s' if len(paths) > 1 else ''}"
    return Collected(
        described=f"WebDataset: {shown} with .{image} and .{mask}, {about}{count} samples{filled}",
        masks=Masks(kind="fill" if is_fill else "labels"),
        stored=Shards(paths=paths, image_extensions=glance.image_extensions, mask_extensions=glance.mask_extensions),
        stored_count=count,
        stored_bytes=total_bytes,
    )


def _look(paths: tuple[str, ...]) -> _Glance:
    """Read the headers of the first shards until time is up, and say what images and masks are called.

    Raises:
        DatasetError: A shard is no tar file, or no sample has both.
    """
    ends_s = time.monotonic() + GLANCE_LIMIT_S
    images: dict[str, int] = {}
    masks: dict[str, int] = {}
    read_bytes = 0
    for path in paths:
        for extension, count in _count_extensions(path).items():
            kinds = masks if _is_mask(extension) else images if _is_image(extension) else {}
            kinds[extension] = kinds.get(extension, 0) + count
        read_bytes += Path(path).stat().st_size
        if time.monotonic() > ends_s:
            break
    if not masks and len(images) == 2:  # 1.jpg and 1.png: the lossless one is the mask
        masks = {extension: images.pop(extension) for extension in ("png",) if extension in images}
    if not images or not masks:
        held = ", ".join(f".{extension}" for extension in (images or masks)) or "no picture"
        raise DatasetError(
            f"{os.path.basename(paths[0])}: no sample has an image and a mask: found {held}",  # noqa: PTH119 - text
            "members of one sample share a stem: 0001.jpg and 0001.mask.png, or 0001.cls",
        )
    first = _most_frequent(images), _most_frequent(masks)
    return _Glance(*first, samples=min(max(images.values()), max(masks.values())), read_bytes=read_bytes)


def _count_extensions(path: str) -> dict[str, int]:
    """Return how many regular members have each extension: all that follows the first dot of the name."""
    counts: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                stem, _, extension = member.name.rpartition("/")[2].lower().partition(".")
                if member.isfile() and stem and extension:
                    counts[extension] = counts.get(extension, 0) + 1
    except (tarfile.TarError, OSError, EOFError) as error:
        shown = printable(os.fsencode(path))
        raise DatasetError(f"{shown} cannot be read as a tar file: {error}", "repair or remove it") from error
    return counts


def _is_mask(extension: str) -> bool:
    """Say whether an extension is a mask's: `mask.png`, `seg.png`, `labels.tif`, `cls`."""
    first, _, rest = extension.partition(".")
    return extension in CLASS_EXTENSIONS or (first in MASK_FOLDERS and rest.encode() in EXTENSIONS)


def _is_image(extension: str) -> bool:
    return extension.rpartition(".")[2].encode() in EXTENSIONS


def _most_frequent(counts: dict[str, int]) -> tuple[str, ...]:
    """Return the extensions, the most frequent first; rare ones too, since a set may mix jpg and png.

    Of equally frequent ones a picture comes before a class, and a plain one (`jpg`) before another (`depth.png`).
    """

    def rank(extension: str) -> tuple[bool, int, int, str]:
        return extension in CLASS_EXTENSIONS, -counts[extension], extension.count("."), extension

    return tuple(sorted(counts, key=rank))
