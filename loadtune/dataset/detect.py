"""Which layout is this, and which pairs does it hold? Asks every layout, and says what it saw when none fits."""

import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtune.dataset.index import PairIndex
from loadtune.dataset.layouts import LAYOUTS, Candidate, Collected, Layout, Search
from loadtune.dataset.leftout import LEAVES, MATCHES_NOTHING, join, printable, printable_folder
from loadtune.dataset.lists import DEFAULT_SPLITS
from loadtune.dataset.palette import find_palette
from loadtune.dataset.tree import Tree
from loadtune.errors import AmbiguousLayoutError, DatasetError, UnrecognisedLayoutError, UsageError
from loadtune.records.report import LeftOut
from loadtune.records.stored import Masks, Stored

ALL_SPLITS = "all"
"""What `--split` takes for every split there is."""

RIVAL_RATIO = 0.5
"""A candidate with at least this share of the best one's pairs is a rival: the user has to say which is meant.
Near 1, a second mask folder with one file missing would be passed over in silence."""

SIZED_PAIRS = 64
"""Pairs whose size is read to estimate that of all. On a network file system each costs a round trip or two."""

FOUND_LIMIT = 3
"""Names shown of what was found instead."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What was recognised."""

    index: PairIndex | None
    """The pairs, in the order of the image paths' bytes. Its owner closes it. None: `stored` holds the samples."""
    layout: str
    """Name of the layout."""
    described: str
    """One sentence for people, with folder names."""
    split: str | None
    """The split used; None: all there is."""
    left_out: tuple[LeftOut, ...]
    """What was seen and not used, the most frequent reason first."""
    total_bytes: int | None
    """Bytes of all used files, estimated from a few dozen pairs spread evenly; None: none of them has a size."""
    sample_count: int
    """Of shards, an estimate."""
    masks: Masks = Masks()
    """How masks are to be read."""
    stored: Stored | None = None
    """Tables or shards to read from instead of files in pairs."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A candidate with the pairs of the split asked for."""

    candidate: Candidate
    split: str | None
    collected: Collected


def list_dataset(path: Path, layout: str | None = None, split: str | None = None) -> Listing:
    """Recognise a data set and list its pairs. No file is opened but split lists.

    Args:
        path: The data set's folder.
        layout: Name of the only layout to try; `paired:IMAGES:MASKS` also names its two folders.
        split: Name of the split, or "all"; None: train if there is one, else all.

    Raises:
        DatasetError: No such folder, an empty one, no such split, or no pair.
        UnrecognisedLayoutError: No layout fits.
        AmbiguousLayoutError: Several fit equally well.
        UsageError: There is no such layout.
    """
    layouts, folders = _named_layouts(layout)
    tree = Tree(_checked_root(path))
    shown = printable(os.fsencode(path))
    root = tree.folder(b"")
    if not (root.files or root.folders):
        summary = root.left_out.summary()
        reason = f"holds nothing to use: {summary}" if summary else "is an empty folder"
        raise DatasetError(f"{shown} {reason}", "give the folder that holds the images and masks")
    failed: list[_Option] = []
    refused: list[DatasetError] = []
    splits: set[str] = set()
    for search in Search:
        candidates = [found for entry in layouts for found in entry.find(tree, search, folders)]
        options = list(_collect_all(candidates, split, refused))
        splits.update(name for candidate in candidates for name in candidate.splits)
        fitting = [option for option in options if len(option.collected)]
        if fitting:
            return _list(tree, _choose(shown, fitting))
        failed += options
        if candidates and not any(_has(candidate, split) for candidate in candidates):
            raise _unknown_split(shown, split, splits)
    if refused:
        raise refused[0]
    if failed:
        raise _no_pairs(shown, failed[0])
    raise _unrecognised(shown, tree, layouts)


def _one_line(text: str) -> str:
    return printable(os.fsencode(text))


def _named_layouts(layout: str | None) -> tuple[tuple[Layout, ...], tuple[str, ...]]:
    """Return the layouts to try, and the folders that were named with one."""
    if layout is None:
        return LAYOUTS, ()
    name, *folders = layout.split(":")
    named = tuple(entry for entry in LAYOUTS if entry.name == name)
    if not named:
        known = ", ".join(entry.name for entry in LAYOUTS)
        raise UsageError(f"there is no layout {name!r}", f"--layout takes one of: {known}")
    return named, tuple(folders)


def _checked_root(path: Path) -> bytes:
    """Return the absolute path of a folder that can be listed, free of links."""
    shown = printable(os.fsencode(path))
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat would do the same
        if not stat.S_ISDIR(mode):
            kind = "a file" if stat.S_ISREG(mode) else "neither a folder nor a file"
            raise DatasetError(f"{shown} is {kind}, not a folder", "give the folder that holds the images and masks")
        root = os.path.realpath(os.fsencode(path), strict=True)
        with os.scandir(root):
            return root
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{shown} does not exist", _missing_hint(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{shown} cannot be listed: {reason}", "check the path and its permissions") from error


def _missing_hint(path: Path) -> str:
    """Return a name of the same folder that is close to a missing one, or what to do."""
    try:
        names = [entry.name for entry in path.absolute().parent.iterdir() if entry.is_dir()]
    except (OSError, ValueError):
        names = []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {printable(os.fsencode(close[0]))}?" if close else "check the path"


def _collect_all(candidates: list[Candidate], split: str | None, refused: list[DatasetError]) -> Iterator[_Option]:
    """Yield what the candidates hold whose images no earlier layout has.

    One that cannot be used is no reason to refuse the others: a stray archive may lie beside a whole data set. What it
    said is added to `refused`.
    """
    taken: list[Candidate] = []
    for candidate in candidates:
        is_taken = any(candidate.folders & other.folders for other in taken if other.layout != candidate.layout)
        if is_taken or not _has(candidate, split):
            continue
        try:
            option = _collect(candidate, split)
        except DatasetError as error:
            refused.append(error)
            continue
        taken.append(candidate)
        yield option


def _has(candidate: Candidate, split: str | None) -> bool:
    return split in {None, ALL_SPLITS} or split in candidate.splits


def _collect(candidate: Candidate, split: str | None) -> _Option:
    """Collect the split asked for, or the default: a default list that names no pair is passed over and told."""
    if split is not None:
        chosen = None if split == ALL_SPLITS else split
        return _Option(candidate, chosen, candidate.collect(chosen))
    chosen = next((name for name in DEFAULT_SPLITS if name in candidate.splits), None)
    collected = candidate.collect(chosen)
    if collected.unmatched_list is None:
        return _Option(candidate, chosen, collected)
    everything = candidate.collect(None)
    everything.left_out.add(MATCHES_NOTHING, collected.unmatched_list)
    return _Option(candidate, None, everything)


def _choose(shown: str, options: list[_Option]) -> _Option:
    """Return the option with the most pairs, if none with the same images comes near, and none has others."""
    best = max(options, key=lambda option: len(option.collected))
    enough = len(best.collected) * RIVAL_RATIO
    rivals = [
        option
        for option in options
        if len(option.collected) >= enough or not option.candidate.folders & best.candidate.folders
    ]
    if len(rivals) == 1:
        return rivals[0]
    named = "; ".join(f"{option.collected.described}, {len(option.collected)} pairs" for option in rivals)
    ways = [option.candidate.chosen_by for option in rivals]
    if len({option.candidate.layout for option in rivals}) == len(rivals):
        ways = [f"--layout {option.candidate.layout}" for option in rivals]
    hint = f"give {' or '.join(dict.fromkeys(ways))}"
    raise AmbiguousLayoutError(f"{shown} can be read in {len(rivals)} ways: {named}", hint)


def _list(tree: Tree, option: _Option) -> Listing:
    collected, splits = option.collected, option.candidate.splits
    index = None if collected.stored is not None else PairIndex.write(tree.root, _paths(collected))
    masks = collected.masks
    if masks.kind == "labels":
        masks = msgspec.structs.replace(masks, palette=find_palette(tree, collected.groups))
    others = ", ".join(map(_one_line, (name for name in splits if name != option.split)))
    note = f"; all splits: {others}" if splits else ""
    if option.split is not None:
        note = f"; split {_one_line(option.split)}" + (f" (there are also {others})" if others else "")
    return Listing(
        index=index,
        layout=option.candidate.layout,
        described=collected.described + note,
        split=option.split,
        left_out=collected.left_out.records(),
        total_bytes=collected.stored_bytes if index is None else _estimate_bytes(index),
        sample_count=len(collected),
        masks=masks,
        stored=collected.stored,
    )


def _paths(collected: Collected) -> Iterator[tuple[bytes, bytes]]:
    for group in collected.groups:
        image_head, mask_head = join(group.image_folder, b""), join(group.mask_folder, b"")
        for image, mask in zip(group.images, group.masks, strict=True):
            yield image_head + image, mask_head + mask


def _estimate_bytes(index: PairIndex) -> int | None:
    count = min(len(index), SIZED_PAIRS)
    sizes = []
    for place in range(count):
        try:
            sizes.append(sum(Path(path).stat().st_size for path in index.files(place * len(index) // count)))
        except OSError:
            continue
    return sum(sizes) * len(index) // len(sizes) if sizes else None


def _unknown_split(shown: str, split: str | None, splits: set[str]) -> DatasetError:
    known = f"--split takes one of: {', '.join(sorted(splits))}, {ALL_SPLITS}"
    hint = (
        known if splits else "leave --split out; a split is a folder (train/) or a list (train.txt, splits/train.txt)"
    )
    return DatasetError(f"{shown} has no split {split!r}", hint)


def _no_pairs(shown: str, option: _Option) -> DatasetError:
    """Say why a layout that fits has no pair."""
    collected = option.collected
    if collected.unmatched_list is not None:
        name = printable(collected.unmatched_list)
        return DatasetError(
            f"{shown}: the split list {name} names no pair that is there ({collected.described})",
            f"correct the list, or give --split {ALL_SPLITS}",
        )
    summary = collected.left_out.summary() or "the folders are empty"
    return DatasetError(
        f"{shown}: no image has a mask in {collected.described}: {summary}",
        "an image and its mask share a name (a.jpg with a.png, a_mask.png); --layout paired:IMAGES:MASKS names others",
    )


def _unrecognised(shown: str, tree: Tree, layouts: tuple[Layout, ...]) -> UnrecognisedLayoutError:
    looked_for = "; ".join(f"{entry.name}: {entry.looked_for}" for entry in layouts)
    hint = "rename the folders, or name them: --layout paired:IMAGES:MASKS"
    if any(reason == LEAVES for reason, _, _ in tree.folder(b"").left_out.items()):
        hint = "links out of the folder are not followed: give a folder that holds both, or move them into this one"
    return UnrecognisedLayoutError(
        f"{shown} fits no known layout: found {_found_instead(tree)}; looked for {looked_for}", hint
    )


def _found_instead(tree: Tree) -> str:
    """Return "3 folders: a/, b/, c/ and 12 .tif files"."""
    root = tree.folder(b"")
    names = [printable_folder(name) for name in root.folders]
    parts = [f"{len(names)} folder{'s' if len(names) > 1 else ''}: {', '.join(names[:FOUND_LIMIT])}"] if names else []
    parts[0:1] = [f"{parts[0]} ..."] if len(names) > FOUND_LIMIT else parts[0:1]
    kinds = Counter(os.path.splitext(name)[1].lower() for name in root.files)  # noqa: PTH122 - these are bytes
    for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:FOUND_LIMIT]:
        label = f"{printable(kind)} file" if kind else "file without extension"
        parts.append(f"{count} {label}{'s' if count > 1 else ''}" if kind else f"{count} {label}")
    parts += [root.left_out.summary()] if root.left_out else []
    return " and ".join(parts)
