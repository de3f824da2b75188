"""Are there folders of images and folders of masks? Found by their usual names, or files told apart by suffix.

Splits are folders in either nesting (`images/train`, `train/images`, `train` with `trainannot`), or lists.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from loadtune.dataset.candidate import Candidate, Search
from loadtune.dataset.folders import FolderCandidate, FolderPair
from loadtune.dataset.leftout import Tally, join, printable, printable_folder
from loadtune.dataset.lists import SPLITS, find_lists
from loadtune.dataset.matching import has_pairs_within, is_image
from loadtune.dataset.tree import Folder, Tree
from loadtune.errors import UsageError

_IMAGE_WORDS = (
    "image images img imgs frame frames photo photos picture pictures jpegimages jpegs rgb sat input inputs original "
    "originals x"
)
_MASK_WORDS = (
    "mask masks msk msks label labels annotation annotations annot annots gt gts groundtruth groundtruths target "
    "targets segmentation segmentations seg segs segmentationclass segmentationclassaug segmentationmask "
    "segmentationmasks labelmap labelmaps matte mattes y"
)
IMAGE_FOLDERS = frozenset(_IMAGE_WORDS.split())
"""What folders of images are called, without separators and capitals."""

MASK_FOLDERS = frozenset(_MASK_WORDS.split())

_SEPARATORS = re.compile(r"[-_. ]")


class _Role(NamedTuple):
    """What a folder's name says. `train_masks` is the masks of train; `train` is neither images nor masks."""

    kind: str
    """The name without split, separators and capitals; empty if it is a split alone."""
    split: str | None


class _Place(NamedTuple):
    """Folders of one kind of images and one kind of masks, with the splits they are for."""

    image_kind: str
    mask_kind: str
    pair: FolderPair


class PairedFolders:
    """A folder of images and a folder of masks whose files have the same stems."""

    name = "paired"
    looked_for = (
        "an image folder with a mask folder (images/ and masks/, train/images/ and train/masks/, train/ and "
        "trainannot/), or a.jpg and a_mask.png in one folder"
    )

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return a candidate for each kind of image folder with each kind of mask folder.

        Raises:
            UsageError: Folders were given that are not an image folder and a mask folder of the tree.
        """
        if folders:
            return [_named(tree, folders)] if search is Search.USUAL else []
        if search is Search.USUAL:
            return _candidates_at(tree, b"")
        if search is Search.BELOW:
            return [found for name in tree.folder(b"").folders for found in _candidates_at(tree, name)]
        return _told_apart_by_suffix(tree)


def _named(tree: Tree, folders: tuple[str, ...]) -> Candidate:
    """Return what `--layout paired:IMAGES:MASKS` names."""
    parts = [[part for part in os.fsencode(folder).split(b"/") if part not in {b"", b"."}] for folder in folders]
    paths = [b"/".join(part) for part in parts]
    missing = [folder for folder, path in zip(folders, paths, strict=True) if not tree.folder(path).real]
    if len(paths) != 2 or missing:
        raise UsageError(
            f"--layout paired:{':'.join(folders)} does not name two folders of the data set",
            "write --layout paired:IMAGES:MASKS, both relative to the data set's folder",
        )
    pairs, outside = _split_below(tree, FolderPair(paths[0], paths[1]))
    return _candidate(tree, b"", pairs, outside)


def _candidates_at(tree: Tree, place: bytes) -> list[Candidate]:
    kinds: dict[tuple[str, str], list[FolderPair]] = {}
    for found in _places(tree, place, None):
        kinds.setdefault((found.image_kind, found.mask_kind), []).append(found.pair)
    candidates = []
    for pairs in kinds.values():
        expanded = [_split_below(tree, pair) for pair in pairs]
        folder_pairs = [pair for inner, _ in expanded for pair in inner]
        candidates.append(_candidate(tree, place, folder_pairs, [folder for _, out in expanded for folder in out]))
    return candidates


def _candidate(tree: Tree, place: bytes, pairs: list[FolderPair], outside: list[bytes]) -> Candidate:
    names = sorted({(_without(pair.images, pair.split), _without(pair.masks, pair.split)) for pair in pairs})
    images, masks = (printable(name) or "." for name in names[0])
    return FolderCandidate(
        tree=tree,
        layout=PairedFolders.name,
        title="paired folders",
        chosen_by=f"the sub-folder {printable_folder(place)}" if place else f"--layout paired:{images}:{masks}",
        folder_pairs=tuple(pairs),
        lists=find_lists(tree, place),
        outside_splits=tuple(outside),
    )


def _without(path: bytes, split: str | None) -> bytes:
    """Return `images` for `images/train`: the folder that a person would name."""
    parent, _, name = path.rpartition(b"/")
    return parent if split is not None and parent and _role(name) == _Role("", split) else path


def _places(tree: Tree, place: bytes, split: str | None) -> Iterator[_Place]:
    """Yield the matching folders at a place and in its split folders."""
    roles = {join(place, name): role for name in tree.folder(place).folders if (role := _role(name))}
    masks = {path: role for path, role in roles.items() if role.kind in MASK_FOLDERS}
    images = {path: role for path, role in roles.items() if role.kind in IMAGE_FOLDERS}
    bare = {path: role for path, role in roles.items() if not role.kind}
    inner = [found for path, role in bare.items() if split is None for found in _places(tree, path, role.split)]
    yield from inner
    # A split's own folder holds the images where its masks have a folder beside it: train/ and trainannot/.
    taken = {found.pair.images.rpartition(b"/")[0] for found in inner} | {found.pair.images for found in inner}
    sources = {**images, **{path: role for path, role in bare.items() if path not in taken}}
    for image_path, image in sources.items():
        for mask_path, mask in masks.items():
            is_loose = not image.kind and mask.split is None and not images
            if image.split == mask.split or is_loose:
                inner_masks = split_folders(tree.folder(mask_path)) if is_loose else {}
                pair = FolderPair(image_path, inner_masks.get(image.split or "", mask_path), image.split or split)
                yield _Place(image.kind, mask.kind, pair)
    if not sources and any(map(is_image, tree.folder(place).files)):
        for mask_path, mask in masks.items():
            yield _Place("", mask.kind, FolderPair(place, mask_path, split))


def _split_below(tree: Tree, pair: FolderPair) -> tuple[list[FolderPair], list[bytes]]:
    """Return a pair's split folders where images and masks have one in common, and what holds them; or itself."""
    images, masks = (split_folders(tree.folder(path)) for path in (pair.images, pair.masks))
    if pair.split is not None or not images.keys() & masks.keys():
        return [pair], []
    pairs = [
        FolderPair(path, masks.get(split, join(pair.masks, split.encode())), split) for split, path in images.items()
    ]
    return pairs, [pair.images]


def split_folders(folder: Folder) -> dict[str, bytes]:
    """Return the folders of a folder that are called as splits are, by split."""
    found: dict[str, bytes] = {}
    for name in folder.folders:
        role = _role(name)
        if role is not None and not role.kind and role.split is not None:
            found.setdefault(role.split, join(folder.path, name))
    return found


def _role(name: bytes) -> _Role | None:
    """Return what a folder's name says, None if nothing."""
    word = _SEPARATORS.sub("", name.decode("utf-8", "replace").lower())
    kinds = IMAGE_FOLDERS | MASK_FOLDERS
    if word in kinds:
        return _Role(word, None)
    for split in SPLITS:
        if word == split:
            return _Role("", split)
        if word.startswith(split) and word.removeprefix(split) in kinds:
            return _Role(word.removeprefix(split), split)
        if word.endswith(split) and word.removesuffix(split) in kinds:
            return _Role(word.removesuffix(split), split)
    return None


def _told_apart_by_suffix(tree: Tree) -> list[Candidate]:
    """Return the whole tree if images and masks share folders anywhere in it, by its top folders as splits."""
    with_pairs = [folder.path for folder in tree.walk(b"", Tally()) if has_pairs_within(folder.files)]
    if not with_pairs:
        return []
    tops = {path.partition(b"/")[0] for path in with_pairs}
    splits = {split: path for split, path in split_folders(tree.folder(b"")).items() if path in tops}
    is_split = bool(splits) and tops <= set(splits.values())
    pairs = [FolderPair(path, path, split) for split, path in splits.items()] if is_split else [FolderPair(b"", b"")]
    return [
        FolderCandidate(
            tree=tree,
            layout=PairedFolders.name,
            title="paired files",
            chosen_by=f"--layout {PairedFolders.name}:.:.",
            folder_pairs=tuple(pairs),
            lists=find_lists(tree, b""),
        )
    ]
