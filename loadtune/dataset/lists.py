"""Which images does a split list name? Reads `train.txt` and its like, also one that was made on another machine.

A line is a stem, a path, or an image and its mask. Paths count by their tail: the folders of a machine that is gone
do not matter.
"""

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from loadtune.dataset.leftout import NO_MASK, NOT_FOUND, UNCLEAR, Tally, join
from loadtune.dataset.matching import Group, cores_of, is_image, split_stem
from loadtune.dataset.tree import Tree

LIST_LIMIT_BYTES = 2**28
"""Largest list that is read: two million long paths. Without it a wrong file fills the memory."""

LINE_LIMIT_BYTES = 10_000
"""Longest line that is looked at: two of the longest paths. Matching a line without end would take for ever."""

LIST_FOLDERS = frozenset({b"splits", b"split", b"imagesets", b"lists", b"list", b"partitions"})
"""Folders in which every text file is a list, lower case."""

SPLITS = ("trainval", "train", "training", "trn", "validation", "valid", "val", "dev", "testing", "test", "eval")
"""What folders and lists of splits are called."""

DEFAULT_SPLITS = ("train", "training", "trn")
"""The split that is used when none is named: the first of these that is there."""

_LIST_NAME = re.compile(
    rf"(?i)^(?:list|split)?[-_]?({'|'.join(SPLITS)})[-_]?(?:list|split|set|files|names|ids|images)?$".encode()
)
"""Match `train`, `train_list`, `list_train`."""

_TWO_PATHS = re.compile(rb"(?i)^(.*\.[a-z0-9]{3,4})(?:[ \t]*[,;][ \t]*|[ \t]+)(\S.*\.[a-z0-9]{3,4})$")
"""Match `/data/train/1.png /data/trainannot/1.png`."""


def find_lists(tree: Tree, place: bytes) -> dict[str, bytes]:
    """Return the split lists of a folder and its list folders, by the split's name. Nothing is opened."""
    found: dict[str, bytes] = {}
    for name in sorted(tree.folder(place).files):
        if (stem := _text_stem(name)) and (usual := _LIST_NAME.match(stem)):
            found.setdefault(usual[1].decode().lower(), join(place, name))
    for folder in tree.folder(place).folders:
        if folder.lower() in LIST_FOLDERS:
            inner = join(place, folder)
            for source in (join(inner, b"Segmentation"), inner):
                found = {**all_lists(tree, source), **found}
    return dict(sorted(found.items()))


def all_lists(tree: Tree, place: bytes) -> dict[str, bytes]:
    """Return every text file of a folder by its split's name: the usual name, or else its stem."""
    found: dict[str, bytes] = {}
    for name in sorted(tree.folder(place).files):
        if stem := _text_stem(name):
            usual = _LIST_NAME.match(stem)
            label = usual[1].lower() if usual else stem
            found.setdefault(os.fsdecode(label), join(place, name))
    return found


def read_lines(tree: Tree, path: bytes, left_out: Tally) -> list[bytes]:
    """Return the lines of a list that are not empty. What cannot be read is counted and gives none."""
    try:
        # Neither blocks on a FIFO nor reads on for ever, should the file have been replaced since it was listed.
        descriptor = os.open(tree.root + b"/" + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LIST_LIMIT_BYTES:
                left_out.add(f"split list not read: not a regular file of at most {LIST_LIMIT_BYTES} bytes", path)
                return []
            content = file.read(LIST_LIMIT_BYTES)
    except OSError as error:
        left_out.add(f"split list not read: {error.strerror}", path)
        return []
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", "replace").encode()
    lines = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").split(b"\n")
    return [line for line in map(bytes.strip, lines) if line]


def select(tree: Tree, groups: list[Group], lines: list[bytes], left_out: Tally) -> list[Group]:
    """Return the pairs that the lines name, counting the lines that name none."""
    lookup = _Lookup(groups)
    chosen: set[int] = set()
    explicit: dict[bytes, bytes] = {}
    for line in lines:
        if len(line) > LINE_LIMIT_BYTES:
            left_out.add(NOT_FOUND, line[:LINE_LIMIT_BYTES])
        elif pair := _explicit_pair(tree, lookup, line):
            image, mask = pair
            if mask is None:
                left_out.add(NOT_FOUND, line)
            else:
                explicit[image] = mask
        else:
            number = lookup.find(line)
            if number is None and len(words := line.split()) > 1:
                number = lookup.find(words[0])  # `2007_000032 1`, `stem stem`
            if number is None:
                left_out.add(NO_MASK if lookup.is_lonely(line) else NOT_FOUND, line)
            elif number < 0:
                left_out.add(UNCLEAR, line)
            else:
                chosen.add(number)
    return [*lookup.groups_of(chosen, explicit), *_explicit_groups(explicit)]


def _explicit_pair(tree: Tree, lookup: "_Lookup", line: bytes) -> tuple[bytes, bytes | None] | None:
    """Return the image and mask that a line names, None for a mask that is not there; None: it names no two.

    Mostly the mask is the one that was found anyway; then no folder is searched.
    """
    two = _TWO_PATHS.match(line)
    if two is None or not is_image(two[1]) or not is_image(two[2]):
        return None
    number = lookup.find(two[1])
    if number is None or number < 0:
        image = tree.locate(two[1])
        return None if image is None else (image, tree.locate(two[2]))
    group, place = lookup.at(number)
    image = join(group.image_folder, group.images[place])
    if group.masks[place] == two[2].rpartition(b"/")[2]:
        return image, join(group.mask_folder, group.masks[place])
    return image, tree.locate(two[2])


def _explicit_groups(pairs: dict[bytes, bytes]) -> list[Group]:
    """Return listed pairs by their folders."""
    groups: dict[tuple[bytes, bytes], Group] = {}
    for image, mask in pairs.items():
        (image_folder, _, image_name), (mask_folder, _, mask_name) = image.rpartition(b"/"), mask.rpartition(b"/")
        group = groups.setdefault((image_folder, mask_folder), Group(image_folder, mask_folder))
        group.images.append(image_name)
        group.masks.append(mask_name)
    return list(groups.values())


def _text_stem(name: bytes) -> bytes:
    stem, _, extension = name.rpartition(b".")
    return stem if extension.lower() in {b"txt", b"lst", b"list"} else b""


class _Lookup:
    """Finds pairs by what a line calls their image. A pair's number counts through all groups."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = groups
        self._starts = list(accumulate((len(group.images) for group in groups), initial=0))
        self._by_stem: dict[bytes, int | list[int]] = {}
        self._by_core: dict[bytes, int | list[int]] | None = None
        self._lonely: set[bytes] | None = None
        for number, stem in self._stems():
            _put(self._by_stem, stem, number)

    def at(self, number: int) -> tuple[Group, int]:
        """Return the group of a pair and its place there."""
        place = bisect_right(self._starts, number) - 1
        return self._groups[place], number - self._starts[place]

    def find(self, line: bytes) -> int | None:
        """Return a pair's number; None if there is none, -1 if several fit equally well."""
        folders, stem = _parts(line)
        found = self._by_stem.get(stem)
        found = self._by_stem.get(line) if found is None else found
        found = self._find_core(stem) if found is None else found
        return self._closest(found, folders) if isinstance(found, list) else found

    def is_lonely(self, line: bytes) -> bool:
        """Say whether a line names an image that is there and has no mask."""
        if self._lonely is None:
            self._lonely = {split_stem(name) for group in self._groups for name in group.lonely_images}
        return _parts(line)[1] in self._lonely

    def groups_of(self, numbers: set[int], without: dict[bytes, bytes]) -> Iterator[Group]:
        """Yield the groups, holding only the pairs of those numbers, and none of the images in `without`."""
        for start, group in zip(self._starts, self._groups, strict=False):
            places = [place for place in range(len(group.images)) if start + place in numbers]
            if without:
                places = [place for place in places if join(group.image_folder, group.images[place]) not in without]
            if places:
                images, masks = [group.images[place] for place in places], [group.masks[place] for place in places]
                yield Group(group.image_folder, group.mask_folder, images, masks, affixes=group.affixes)

    def _stems(self) -> Iterator[tuple[int, bytes]]:
        for start, group in zip(self._starts, self._groups, strict=False):
            for place, name in enumerate(group.images):
                yield start + place, split_stem(name)

    def _find_core(self, stem: bytes) -> int | list[int] | None:
        """Find `0001` for `0001_rgb.png`, and `0001_mask` for `0001.png`."""
        if self._by_core is None:
            self._by_core = {}
            for number, own in self._stems():
                for core in cores_of(own):
                    _put(self._by_core, core, number)
        for core in (stem, *cores_of(stem)):
            for known in (self._by_stem, self._by_core):
                if core in known:
                    return known[core]
        return None

    def _closest(self, numbers: list[int], folders: list[bytes]) -> int:
        """Return the pair whose folders agree longest with those of the line, from the end; -1 if two do."""
        scores = []
        for number in numbers:
            own = self.at(number)[0].image_folder.split(b"/")
            agreeing = zip(reversed(own), reversed(folders), strict=False)
            scores.append(next((n for n, (a, b) in enumerate(agreeing) if a != b), min(len(own), len(folders))))
        best = max(scores)
        return numbers[scores.index(best)] if scores.count(best) == 1 else -1


def _put(table: dict[bytes, int | list[int]], key: bytes, number: int) -> None:
    """Keep a number under a key; a list only where there are several, which saves most of the memory."""
    known = table.setdefault(key, number)
    if isinstance(known, list):
        known.append(number)
    elif known != number:
        table[key] = [known, number]


def _parts(line: bytes) -> tuple[list[bytes], bytes]:
    r"""Return the folders and the stem of a line; `C:\data\a.jpg` has folders too."""
    if b"/" not in line and b"\\" in line:
        line = line.replace(b"\\", b"/")
    *folders, name = line.split(b"/")
    return folders, split_stem(name)
