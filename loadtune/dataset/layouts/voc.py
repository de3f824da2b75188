"""Is it Pascal VOC? JPEGImages/ with SegmentationClass/, splits in ImageSets/Segmentation/."""

import re
from collections.abc import Iterator

from loadtune.dataset.candidate import Candidate, Search
from loadtune.dataset.folders import FolderCandidate, FolderPair
from loadtune.dataset.leftout import join, printable_folder
from loadtune.dataset.lists import all_lists
from loadtune.dataset.tree import Tree
from loadtune.errors import UsageError

_YEAR_FOLDER = re.compile(rb"VOC(20\d\d)$")
"""Match `VOC2012`."""


class PascalVoc:
    """The layout of the Pascal VOC challenges 2007 to 2012. SegmentationObject/ holds instances and is not read."""

    name = "voc"
    looked_for = "JPEGImages/ with SegmentationClass/, there or in VOCdevkit/VOC20xx/"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return one candidate a year.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError(
                "--layout voc takes no folder names", "give the folder that holds JPEGImages/ as the data set"
            )
        if search is Search.ANYWHERE:
            return []
        tops = [b""] if search is Search.USUAL else list(tree.folder(b"").folders)
        return [_candidate(tree, place) for top in tops for place in _places(tree, top) if _is_voc(tree, place)]


def _places(tree: Tree, top: bytes) -> Iterator[bytes]:
    for parent in (top, join(top, b"VOCdevkit")):
        yield parent
        for name in tree.folder(parent).folders:
            if _YEAR_FOLDER.match(name):
                yield join(parent, name)


def _is_voc(tree: Tree, place: bytes) -> bool:
    return {b"JPEGImages", b"SegmentationClass"} <= tree.folder(place).folders.keys()


def _candidate(tree: Tree, place: bytes) -> Candidate:
    year = _YEAR_FOLDER.search(join(tree.root, place).rstrip(b"/"))
    return FolderCandidate(
        tree=tree,
        layout=PascalVoc.name,
        title=f"Pascal VOC {year[1].decode()}" if year else "Pascal VOC",
        chosen_by=f"the sub-folder {printable_folder(place)}",
        folder_pairs=(FolderPair(join(place, b"JPEGImages"), join(place, b"SegmentationClass")),),
        lists=all_lists(tree, join(place, b"ImageSets/Segmentation")),
    )
