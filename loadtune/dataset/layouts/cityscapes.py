"""Is it Cityscapes? leftImg8bit/ with gtFine/ or gtCoarse/, by splits and cities, with four masks an image."""

import re
from collections.abc import Iterator

from loadtune.dataset.candidate import Candidate, Search
from loadtune.dataset.folders import FolderCandidate, FolderPair
from loadtune.dataset.leftout import Tally, join, printable_folder
from loadtune.dataset.tree import Tree
from loadtune.errors import UsageError
from loadtune.records.stored import Masks

IMAGES = b"leftImg8bit"
ANNOTATIONS = (b"gtFine", b"gtCoarse")
"""The fine ones first: they are what is trained on, the coarse ones an addition."""

_KINDS = ((b"labelTrainIds", 19), (b"labelIds", 34))
"""The masks to train on, and their classes. labelTrainIds are made by the data set's own scripts; where they were not,
labelIds hold the same classes and some that are not evaluated."""
_ALL_KINDS = (b"labelTrainIds", b"labelIds", b"instanceTrainIds", b"instanceIds", b"color")


class Cityscapes:
    """The layout of the Cityscapes data set, its two archives unpacked into one folder or each into its own."""

    name = "cityscapes"
    looked_for = "leftImg8bit/ with gtFine/ or gtCoarse/"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the fine annotations, or those asked for.

        Raises:
            UsageError: Other folders were given.
        """
        wanted = tuple(folder.encode() for folder in folders) or ANNOTATIONS
        if len(folders) > 1 or not set(wanted) <= set(ANNOTATIONS):
            raise UsageError(
                f"--layout cityscapes:{':'.join(folders)} names no annotations", "write cityscapes:gtFine or :gtCoarse"
            )
        if search is Search.ANYWHERE:
            return []
        tops = [b""] if search is Search.USUAL else list(tree.folder(b"").folders)
        return [found for top in tops for found in _candidates(tree, top, wanted)]


def _candidates(tree: Tree, top: bytes, wanted: tuple[bytes, ...]) -> Iterator[Candidate]:
    """Yield one candidate at most: of fine and coarse annotations, the first that is there."""
    images = _unpacked(tree, top, IMAGES)
    for name in wanted:
        masks = _unpacked(tree, top, name)
        if images is not None and masks is not None and (kind := _mask_kind(tree, masks)):
            yield _candidate(tree, top, images, masks, *kind)
            return


def _unpacked(tree: Tree, top: bytes, name: bytes) -> bytes | None:
    """Return `gtFine`, or `gtFine_trainvaltest/gtFine`, where an archive was unpacked into its own folder."""
    folders = tree.folder(top).folders
    if name in folders:
        return join(top, name)
    own = (join(top, folder) for folder in folders if folder.startswith(name + b"_"))
    return next((join(folder, name) for folder in own if name in tree.folder(folder).folders), None)


def _mask_kind(tree: Tree, masks: bytes) -> tuple[bytes, int] | None:
    """Return the kind of mask to train on and its classes; None where no city holds one."""
    for folder in tree.walk(masks, Tally()):
        for kind, class_count in _KINDS:
            if any(name.endswith(b"_" + kind + b".png") for name in folder.files):
                return kind, class_count
    return None


def _candidate(tree: Tree, top: bytes, images: bytes, masks: bytes, kind: bytes, class_count: int) -> Candidate:
    splits = [name for name in tree.folder(images).folders if name in tree.folder(masks).folders]
    others = b"|".join(each for each in _ALL_KINDS if each != kind)
    return FolderCandidate(
        tree=tree,
        layout=Cityscapes.name,
        title=f"Cityscapes ({masks.rpartition(b'/')[2].decode()}, {kind.decode()}, {class_count} classes)",
        chosen_by=f"the sub-folder {printable_folder(top)}",
        folder_pairs=tuple(
            FolderPair(join(images, name), join(masks, name), name.decode("utf-8", "replace")) for name in splits
        ),
        aside=re.compile(rb"_(?:" + others + rb")\.png$|_polygons\.json$"),
        masks=Masks(class_count=class_count),
    )
