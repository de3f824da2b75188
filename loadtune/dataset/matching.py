"""Which image belongs to which mask, by their names alone?

Names match by stem; what is left then matches without the usual suffixes (`a.jpg`, `a_mask.png`), then without the
usual prefixes (`img_1.jpg`, `mask_1.png`). Exact stems come first, so that an image called `cat_label` keeps its
own mask.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from loadtune.dataset.leftout import DUPLICATE, NO_IMAGE, NO_MASK, NOT_AN_IMAGE, Tally, join

_IMAGE_FILES = "jpg jpeg jpe jfif png bmp dib tif tiff gif webp ppm pgm pbm pnm avif jp2 tga"

EXTENSIONS = frozenset(name.encode() for lower in _IMAGE_FILES.split() for name in (lower, lower.upper()))
"""Both cases are listed: lowering a million extensions costs a tenth of the whole listing."""

LOSSY_EXTENSIONS = frozenset({b"jpg", b"jpeg", b"jpe", b"jfif"})
"""Of two masks with one stem the other is used: labels do not survive JPEG."""

MASK_SUFFIXES = (
    "gtfine_labeltrainids gtcoarse_labeltrainids labeltrainids gtfine_labelids gtcoarse_labelids labelids masks mask "
    "msk segmentation seg groundtruth ground_truth gt labels label lbl annotations annotation annots annot target "
    "matte l"
)
"""The first of several found is used: labelTrainIds before labelIds, both before a picture for people."""

IMAGE_SUFFIXES = "leftimg8bit images image imgs img im photo rgb sat original orig input raw"

MASK_PREFIXES = "masks mask msk segmentation seg groundtruth gt labels label lbl annotation annot target"

IMAGE_PREFIXES = "images image imgs img im photo frame rgb sat input"


GLANCE_FILES = 10_000
"""Files of a folder looked at to see whether it holds pairs. All of them would double the time of the listing."""


def _suffix_pattern(words: str) -> re.Pattern[bytes]:
    """Match `0001TP_006690_L` as `0001TP_006690` and `L`, and take the longer suffix of `a_gtFine_labelIds`."""
    return re.compile(f"(?is)^(?P<core>.+?)[-_. ](?P<affix>{'|'.join(words.split())})$".encode())


def _prefix_pattern(words: str) -> re.Pattern[bytes]:
    """Match `mask_0001` as `mask` and `0001`."""
    return re.compile(f"(?is)^(?P<affix>{'|'.join(words.split())})[-_. ](?P<core>.+)$".encode())


MASK_SUFFIX = _suffix_pattern(MASK_SUFFIXES)
IMAGE_SUFFIX = _suffix_pattern(IMAGE_SUFFIXES)
_PASSES = (
    (IMAGE_SUFFIX, MASK_SUFFIX),
    (_prefix_pattern(IMAGE_PREFIXES), _prefix_pattern(MASK_PREFIXES)),
)
_RANKS = {word.encode(): rank for rank, word in enumerate(MASK_SUFFIXES.split())}


@dataclass(slots=True)
class Group:
    """The pairs of one folder of images and one of masks, both relative to the root."""

    image_folder: bytes
    mask_folder: bytes
    images: list[bytes] = field(default_factory=list)
    masks: list[bytes] = field(default_factory=list)
    """As long as `images`, in the same order."""
    lonely_images: list[bytes] = field(default_factory=list)
    lonely_masks: list[bytes] = field(default_factory=list)
    affixes: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    """What had to be taken off image and mask to match them, as written."""
    left_out: Tally = field(default_factory=Tally)
    """What can be no part of a pair: not an image, duplicates."""

    def count_lonely(self, left_out: Tally) -> None:
        """Add what has no partner to a tally."""
        left_out.add_all(NO_MASK, self.image_folder, self.lonely_images)
        left_out.add_all(NO_IMAGE, self.mask_folder, self.lonely_masks)


def match(image_folder: bytes, image_files: list[bytes], mask_folder: bytes, mask_files: list[bytes]) -> Group:
    """Pair the files of two folders. The result depends on the names only, not on their order."""
    group = Group(image_folder, mask_folder)
    free = _masks_by_stem(group, mask_files)
    lonely: dict[bytes, bytes] = {}
    for name in sorted(image_files):
        stem, _, extension = name.rpartition(b".")
        if not (stem and (extension in EXTENSIONS or is_image(name))):
            group.left_out.add(NOT_AN_IMAGE, join(image_folder, name))
        elif mask := free.pop(stem, None):
            group.images.append(name)
            group.masks.append(mask)
        elif (used := lonely.setdefault(stem, name)) is not name:
            _leave_duplicate(group, image_folder, name, used)
    lonely = _drop_duplicates(group, lonely)
    for image_pattern, mask_pattern in _PASSES:
        if lonely and free:
            _match_cores(group, lonely, free, image_pattern, mask_pattern)
    group.lonely_images.extend(lonely.values())
    group.lonely_masks.extend(free.values())
    return group


def match_within(folder: bytes, files: list[bytes]) -> Group:
    """Pair the files of one folder, whose masks carry a suffix that their images do not."""
    masks = [name for name in files if is_image(name) and MASK_SUFFIX.match(split_stem(name))]
    taken = set(masks)
    return match(folder, [name for name in files if name not in taken], folder, masks)


def has_pairs_within(files: list[bytes]) -> bool:
    """Say whether `match_within` would find a pair. An image and its mask are neighbours in byte order."""
    return bool(match_within(b"", sorted(files)[:GLANCE_FILES]).images)


def is_image(name: bytes) -> bool:
    """Say whether a name has the extension of a picture that can be read, in either case."""
    stem, _, extension = name.rpartition(b".")
    return bool(stem) and (extension in EXTENSIONS or extension.upper() in EXTENSIONS)


def split_stem(name: bytes) -> bytes:
    """Return a name without its extension, if that is a picture's."""
    return name.rpartition(b".")[0] if is_image(name) else name


def cores_of(stem: bytes) -> Iterable[bytes]:
    """Yield what a stem may be called without its suffix or prefix, as image or as mask."""
    for patterns in _PASSES:
        for pattern in patterns:
            if found := pattern.match(stem):
                yield found["core"]


def _masks_by_stem(group: Group, files: list[bytes]) -> dict[bytes, bytes]:
    by_stem: dict[bytes, bytes] = {}
    for name in files:
        stem, _, extension = name.rpartition(b".")
        if not (stem and (extension in EXTENSIONS or is_image(name))):
            group.left_out.add(NOT_AN_IMAGE, join(group.mask_folder, name))
        elif (other := by_stem.setdefault(stem, name)) is not name:
            used, left = sorted((name, other), key=_lossy_last)
            by_stem[stem] = used
            _leave_duplicate(group, group.mask_folder, left, used)
    return by_stem


def _lossy_last(name: bytes) -> tuple[bool, bytes]:
    return name.rpartition(b".")[2].lower() in LOSSY_EXTENSIONS, name


def _leave_duplicate(group: Group, folder: bytes, name: bytes, used: bytes) -> None:
    group.left_out.add(DUPLICATE, join(folder, name) + b" (" + join(folder, used) + b" is used)")


def _drop_duplicates(group: Group, lonely: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Count those images whose mask went to another of the same stem; return the others."""
    if not lonely:
        return lonely
    used = {split_stem(name): name for name in group.images}
    for stem, name in lonely.items():
        if stem in used:
            _leave_duplicate(group, group.image_folder, name, used[stem])
    return {stem: name for stem, name in lonely.items() if stem not in used}


def _match_cores(
    group: Group,
    lonely: dict[bytes, bytes],
    free: dict[bytes, bytes],
    image_pattern: re.Pattern[bytes],
    mask_pattern: re.Pattern[bytes],
) -> None:
    """Pair what is left by what remains of its stems; both dicts lose what was paired or is a duplicate."""
    by_core: dict[bytes, bytes] = {}
    rivals: dict[bytes, list[bytes]] = {}  # apart, since a list for each of a million masks costs gigabytes
    for mask_stem, (core, _) in zip(free, _split_all(map(_bare, free), mask_pattern), strict=True):
        if by_core.setdefault(core, mask_stem) is not mask_stem:
            rivals.setdefault(core, [by_core[core]]).append(mask_stem)
    taken: dict[bytes, bytes] = {}
    leftover: dict[bytes, bytes] = {}
    stems = list(lonely)
    for stem, (core, image_affix) in zip(stems, _split_all(stems, image_pattern), strict=True):
        # The whole stem first: of `a_img` the mask may be `a_img_mask` or `a_mask`.
        key = stem if stem in by_core else core
        mask_stem = by_core.pop(key, b"")
        if not mask_stem:
            leftover[stem] = key
            continue
        if key in rivals:
            mask_stem, *others = sorted(rivals[key], key=lambda mask: _rank(mask, mask_pattern))
            for other in others:
                _leave_duplicate(group, group.mask_folder, free.pop(other), free[mask_stem])
        bare = _bare(mask_stem)
        mask_affix = bare[len(key) :] if bare.startswith(key) else bare[: -len(key)]
        group.affixes[b"" if key == stem else image_affix, mask_affix] += 1
        taken[key] = lonely.pop(stem)
        group.images.append(taken[key])
        group.masks.append(free.pop(mask_stem))
    for stem, key in leftover.items():
        if key in taken:
            _leave_duplicate(group, group.image_folder, lonely.pop(stem), taken[key])


def _bare(stem: bytes) -> bytes:
    """Return `a` for a mask `a.jpg.png`, whose stem is `a.jpg`."""
    return split_stem(stem) if b"." in stem else stem


def _rank(mask_stem: bytes, pattern: re.Pattern[bytes]) -> tuple[int, bytes]:
    """Return a mask's place among several of one image; one without suffix comes first."""
    affix = _split(_bare(mask_stem), pattern)[1]
    return _RANKS.get(affix.strip(b"-_. ").lower(), -1), mask_stem


def _split_all(stems: Iterable[bytes], pattern: re.Pattern[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield what `_split` returns for each stem.

    The suffix that the last one had is tried first, and no affix begins or ends in a digit: both spare most of a
    million searches.
    """
    is_suffix = pattern in {IMAGE_SUFFIX, MASK_SUFFIX}
    edge = slice(-1, None) if is_suffix else slice(0, 1)
    last = b""
    for stem in stems:
        if last and stem.endswith(last) and len(stem) > len(last):
            yield stem[: -len(last)], last
        elif stem[edge].isdigit():
            yield stem, b""
        else:
            core, affix = _split(stem, pattern)
            # `_labelIds` may be the end of a longer suffix of the next stem.
            last = affix if is_suffix and not affix.lower().endswith(b"ids") else b""
            yield core, affix


def _split(stem: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes, bytes]:
    """Return a stem's core, and its affix with the separator between them; nothing taken off where none is."""
    found = pattern.match(stem)
    if found is None:
        return stem, b""
    start, end = found.span("core")
    return found["core"], stem[end:] if start == 0 else stem[:start]
