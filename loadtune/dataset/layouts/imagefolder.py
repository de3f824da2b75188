"""Is it a classification set? One folder a class, as torchvision's ImageFolder reads it; the class fills the mask."""

import re
from functools import partial

from loadtune.dataset.candidate import Candidate, Collected, MadeCandidate, Search
from loadtune.dataset.layouts.paired import IMAGE_FOLDERS, MASK_FOLDERS, split_folders
from loadtune.dataset.leftout import NOT_AN_IMAGE, join, printable_folder
from loadtune.dataset.matching import Group, has_pairs_within, is_image, split_stem
from loadtune.dataset.tree import Folder, Tree
from loadtune.errors import UsageError
from loadtune.records.stored import Masks

CLASSES_MIN = 2
"""With one folder of images there is nothing to tell apart: it is more likely one whose masks are missing."""
CLASS_IMAGES_MEAN_MIN = 2
"""Images a class on average. With fewer, each folder is one sample rather than one class."""


class ImageFolder:
    """Class folders. It is looked for last: nearly every tree looks like one."""

    name = "imagefolder"
    looked_for = "class folders of images (cat/1.jpg, dog/2.jpg), also in train/ and val/"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the classes at the top, or those of the split folders together.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError("--layout imagefolder takes no folder names", "give the folder that holds the classes")
        if search is not Search.ANYWHERE:
            return []
        splits = split_folders(tree.folder(b""))
        places = splits or {"": b""}
        classes = {split: _classes(tree.folder(place), tree) for split, place in places.items()}
        classes = {split: found for split, found in classes.items() if found}
        if not classes:
            return []
        return [
            MadeCandidate(
                layout=self.name,
                chosen_by=f"--layout {self.name}",
                folders=frozenset(folder.path for found in classes.values() for folder in found.values()),
                splits=tuple(sorted(filter(None, classes))),
                collect=partial(_collect, classes),
            )
        ]


def _classes(place: Folder, tree: Tree) -> dict[bytes, Folder]:
    """Return the class folders by name; none where some folder is of another kind."""
    found = {name: tree.folder(join(place.path, name)) for name in place.folders}
    counts = {name: sum(map(is_image, folder.files)) for name, folder in found.items()}
    filled = {name: folder for name, folder in found.items() if counts[name]}
    is_other = any(
        name.decode("utf-8", "replace").lower() in IMAGE_FOLDERS | MASK_FOLDERS or has_pairs_within(folder.files)
        for name, folder in filled.items()
    )
    if len(filled) == CLASSES_MIN and _are_images_and_masks(*filled.items()):
        return {}
    if is_other or len(filled) < CLASSES_MIN or sum(counts.values()) < CLASS_IMAGES_MEAN_MIN * len(filled):
        return {}
    return filled


def _are_images_and_masks(one: tuple[bytes, Folder], other: tuple[bytes, Folder]) -> bool:
    """Say whether two folders look like images and their masks under names that nobody knows (`DUTS-TR-Mask`).

    They share their stems, and a name says so, or their extensions differ. Classes are often numbered alike too.
    """
    stems, extensions = [], []
    for _, folder in (one, other):
        names = [name for name in folder.files if is_image(name)]
        stems.append({split_stem(name) for name in names})
        extensions.append({name.rpartition(b".")[2].lower() for name in names})
    words = {word for name, _ in (one, other) for word in re.split(r"[^a-z]+", name.decode("utf-8", "replace").lower())}
    is_said = bool(words & MASK_FOLDERS) or not extensions[0] & extensions[1]
    return is_said and 2 * len(stems[0] & stems[1]) > min(map(len, stems))


def _collect(classes: dict[str, dict[bytes, Folder]], split: str | None) -> Collected:
    """Number the classes by name, over all splits, so that a class has one number everywhere."""
    names = sorted({name for found in classes.values() for name in found})
    numbers = {name: number for number, name in enumerate(names)}
    collected = Collected(masks=Masks(kind="fill", class_count=max(CLASSES_MIN, len(names))))
    for own, found in classes.items():
        for name, folder in found.items() if split in {None, own} else ():
            collected.groups.append(_group(folder, numbers[name], collected))
    first = next(iter(classes.values()))
    shown = ", ".join(printable_folder(name) for name in list(first)[:2])
    collected.described = f"class folders: {shown} ... ({len(names)} classes); the class of an image fills its mask"
    return collected


def _group(folder: Folder, number: int, collected: Collected) -> Group:
    images = sorted(filter(is_image, folder.files))
    collected.left_out.add_all(NOT_AN_IMAGE, folder.path, (name for name in folder.files if not is_image(name)))
    # The stem before the number is no use to a reader: shared with the image, it keeps the index small.
    return Group(folder.path, b"", images, [split_stem(name) + b"\n%d" % number for name in images])
