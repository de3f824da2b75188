"""Is each folder one sample? With an image and a mask, or an images/ and a masks/ folder of one object a file.

The 2018 Data Science Bowl's own archive is the latter; what LabelMe writes (`img.png`, `label.png`) is the former.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from loadtune.dataset.candidate import Candidate, Collected, MadeCandidate, Search
from loadtune.dataset.layouts.paired import IMAGE_FOLDERS, MASK_FOLDERS, split_folders
from loadtune.dataset.leftout import NO_MASK, NOT_AN_IMAGE, join, printable_folder
from loadtune.dataset.matching import Group, is_image, split_stem
from loadtune.dataset.tree import Folder, Tree
from loadtune.errors import UsageError
from loadtune.records.stored import Masks

GLANCE_FOLDERS = 64
"""Folders looked at to see whether each is a sample. All of a million would double the time of the listing."""
SAMPLES_MIN = 2
"""One folder with an image and a mask is more likely a whole data set of one pair."""


class _Sample(NamedTuple):
    """What a folder holds if it is a sample. All are names within it."""

    image: bytes
    masks: tuple[bytes, ...]
    has_parts: bool


class SampleFolders:
    """A folder a sample."""

    name = "samples"
    looked_for = "a folder a sample, each with image.png and mask.png, or images/ with one file and masks/ with several"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the folders at the top, or those of the split folders together.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError("--layout samples takes no folder names", "give the folder that holds the samples")
        if search is not Search.USUAL:
            return []
        splits = split_folders(tree.folder(b""))
        places = splits or {"": b""}
        places = {split: place for split, place in places.items() if _holds_samples(tree, place)}
        if not places:
            return []
        return [
            MadeCandidate(
                layout=self.name,
                chosen_by=f"--layout {self.name}",
                folders=frozenset(_image_folders(tree, places.values())),
                splits=tuple(sorted(filter(None, places))),
                collect=partial(_collect, tree, places),
            )
        ]


def _holds_samples(tree: Tree, place: bytes) -> bool:
    """Say whether most of the first folders are samples."""
    names = list(tree.folder(place).folders)[:GLANCE_FOLDERS]
    samples = [name for name in names if _sample(tree, tree.folder(join(place, name))) is not None]
    return len(samples) >= SAMPLES_MIN and 2 * len(samples) > len(names)


def _image_folders(tree: Tree, places: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the folders of the first samples: enough to be told from another layout of the same images."""
    for place in places:
        for name in list(tree.folder(place).folders)[:GLANCE_FOLDERS]:
            own = join(place, name)
            yield own
            yield from (join(own, inner) for inner in tree.folder(own).folders)


def _sample(tree: Tree, folder: Folder) -> _Sample | None:
    """Return what a folder holds, or None where it is no sample."""
    images, masks = (
        [name for name in folder.folders if name.lower().decode("utf-8", "replace") in words]
        for words in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    if images and masks:
        own = [name for name in tree.folder(join(folder.path, images[0])).files if is_image(name)]
        parts = sorted(name for name in tree.folder(join(folder.path, masks[0])).files if is_image(name))
        if len(own) == 1 and parts:
            return _Sample(join(images[0], own[0]), tuple(join(masks[0], part) for part in parts), has_parts=True)
        return None
    stems = {split_stem(name).decode("utf-8", "replace").lower(): name for name in sorted(folder.files, reverse=True)}
    found = [next((stems[word] for word in stems if word in words), None) for words in (IMAGE_FOLDERS, MASK_FOLDERS)]
    image, mask = (name if name is not None and is_image(name) else None for name in found)
    if image is None and mask is not None:
        others = [name for name in folder.files if is_image(name) and name != mask]
        image = others[0] if len(others) == 1 else None
    return None if image is None or mask is None else _Sample(image, (mask,), has_parts=False)


def _collect(tree: Tree, places: dict[str, bytes], split: str | None) -> Collected:
    """Pair the files of every folder; one that is no sample is left out."""
    collected, has_parts = Collected(), False
    first = b""
    for own, place in places.items():
        group = Group(place, place)
        for name in tree.folder(place).folders if split in {None, own} else ():
            folder = tree.folder(join(place, name))
            sample = _sample(tree, folder)
            if sample is None:
                reason = NO_MASK if any(map(is_image, folder.files)) or folder.folders else NOT_AN_IMAGE
                collected.left_out.add(reason, folder.path + b"/")
                continue
            first = first or folder.path
            has_parts = has_parts or sample.has_parts
            group.images.append(join(name, sample.image))
            group.masks.append(_reference(name, sample))
        collected.groups.append(group)
    collected.described = f"a folder a sample: {printable_folder(first)} and others"
    if has_parts:
        collected.masks = Masks(kind="parts", class_count=2)
        collected.described += ", each object's mask a file of its own"
    return collected


def _reference(name: bytes, sample: _Sample) -> bytes:
    """Return the mask's file; of parts, their folder and a line of their names."""
    if not sample.has_parts:
        return join(name, sample.masks[0])
    folder = sample.masks[0].rpartition(b"/")[0]
    return join(name, folder) + b"\n" + b"/".join(mask.rpartition(b"/")[2] for mask in sample.masks)
