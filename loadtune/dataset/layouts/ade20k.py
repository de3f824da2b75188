"""Is it ADE20K? The scene parsing benchmark's images/ and annotations/, or the full data set's files by scene."""

import re
from collections.abc import Iterator

from loadtune.dataset.candidate import Candidate, Search
from loadtune.dataset.folders import FolderCandidate, FolderPair
from loadtune.dataset.leftout import join, printable_folder
from loadtune.dataset.tree import Tree
from loadtune.errors import UsageError
from loadtune.records.stored import Masks

_SPLITS = (b"training", b"validation")
_FILE = re.compile(rb"ADE_(?:train|val|frame)_\d{8}")
"""Begins the name of every file and folder of a sample, in both forms."""
BENCHMARK_CLASSES = 151
"""150, and 0 for what belongs to none of them."""


class Ade20k:
    """ADE20K as the scene parsing benchmark of 2016 gives it, and in full, as of 2021."""

    name = "ade20k"
    looked_for = "ADE_train_*.jpg in images/training/ with annotations/training/, or by scene in images/ADE/training/"

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the form that is there.

        Raises:
            UsageError: Folders were given.
        """
        if folders:
            raise UsageError("--layout ade20k takes no folder names", "give the folder that holds images/")
        if search is Search.ANYWHERE:
            return []
        tops = [b""] if search is Search.USUAL else list(tree.folder(b"").folders)
        return [found for top in tops for found in (*_benchmark(tree, top), *_full(tree, top))]


def _benchmark(tree: Tree, top: bytes) -> Iterator[Candidate]:
    images, masks = join(top, b"images"), join(top, b"annotations")
    splits = [name for name in _SPLITS if name in tree.folder(images).folders and name in tree.folder(masks).folders]
    if splits and any(map(_FILE.match, tree.folder(join(images, splits[0])).files)):
        yield _candidate(
            tree,
            top,
            f"ADE20K scene parsing ({BENCHMARK_CLASSES} classes)",
            [FolderPair(join(images, name), join(masks, name), name.decode()) for name in splits],
            Masks(class_count=BENCHMARK_CLASSES),
        )


def _full(tree: Tree, top: bytes) -> Iterator[Candidate]:
    """Yield the full data set: `x.jpg`, `x_seg.png`, `x_parts_1.png` and a folder `x/` of objects, side by side."""
    place = join(top, b"images/ADE")
    splits = [name for name in _SPLITS if name in tree.folder(place).folders]
    if splits:
        pairs = [FolderPair(join(place, name), join(place, name), name.decode()) for name in splits]
        yield _candidate(tree, top, "ADE20K in full", pairs, Masks(kind="ade20k"))


def _candidate(tree: Tree, top: bytes, title: str, pairs: list[FolderPair], masks: Masks) -> Candidate:
    return FolderCandidate(
        tree=tree,
        layout=Ade20k.name,
        title=title,
        chosen_by=f"the sub-folder {printable_folder(top)}",
        folder_pairs=tuple(pairs),
        aside=re.compile(_FILE.pattern + rb"(?:_parts_\d+\.png|\.json|_atr\.txt)?$"),
        masks=masks,
    )
