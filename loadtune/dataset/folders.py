"""Which pairs do a folder of images and a folder of masks hold? What all layouts that pair files by name share."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtune.dataset.candidate import Collected
from loadtune.dataset.leftout import OUTSIDE_SPLITS, Tally, join, printable, printable_folder
from loadtune.dataset.lists import read_lines, select
from loadtune.dataset.matching import Group, match, match_within
from loadtune.dataset.tree import Folder, Tree
from loadtune.records.stored import Masks


@dataclass(frozen=True, slots=True)
class FolderPair:
    """A folder of images and the folder of their masks, perhaps the same, each with all that is below it."""

    images: bytes
    masks: bytes
    split: str | None = None
    """The split that the folders' names say; None if they say none."""


@dataclass(frozen=True, slots=True)
class FolderCandidate:
    """Pairs of folders read together. Splits are folders or lists; of one name, the folder counts."""

    tree: Tree
    layout: str
    title: str
    """What the sentence for people begins with."""
    chosen_by: str
    folder_pairs: tuple[FolderPair, ...]
    lists: dict[str, bytes] = field(default_factory=dict)
    outside_splits: tuple[bytes, ...] = ()
    """Folders that hold split folders; images that lie in them directly belong to no split."""
    aside: re.Pattern[bytes] | None = None
    """Finds names that are of the layout and neither image nor mask; they are passed over, with what is below them."""
    masks: Masks = Masks()

    @property
    def folders(self) -> frozenset[bytes]:
        """Folders its images come from."""
        return frozenset(pair.images for pair in self.folder_pairs)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted({pair.split for pair in self.folder_pairs if pair.split} | set(self.lists)))

    def collect(self, split: str | None) -> Collected:
        """Return the pairs of a split; of all of them for None."""
        chosen = [pair for pair in self.folder_pairs if split is None or pair.split == split]
        source = None if chosen or split is None else self.lists[split]
        found = Collected()
        for pair in chosen or self.folder_pairs:
            found.groups.extend(_match_folders(self.tree, pair, found.left_out, self.aside))
        for holder in map(self.tree.folder, self.outside_splits):
            within = [name for name in holder.folders if join(holder.path, name) not in self.folders]
            found.left_out.add_all(OUTSIDE_SPLITS, holder.path, [*holder.files, *(name + b"/" for name in within)])
        if source is not None:
            found = self._select(source, found)
        else:
            for group in found.groups:
                group.count_lonely(found.left_out)
                found.left_out.merge(group.left_out)
        found.described = self._describe(chosen or self.folder_pairs, found.groups, source)
        found.masks = self.masks
        return found

    def _select(self, source: bytes, found: Collected) -> Collected:
        """Keep what a list names. What the folders hold besides is another split's, and no fault."""
        lines = read_lines(self.tree, source, found.left_out)
        for group in found.groups:
            found.left_out.merge(group.left_out)
        faults = Tally()
        groups = select(self.tree, found.groups, lines, faults)
        if not groups:
            return Collected([], found.left_out, unmatched_list=source)
        found.left_out.merge(faults)
        return Collected(groups, found.left_out)

    def _describe(self, pairs: Sequence[FolderPair], groups: list[Group], source: bytes | None) -> str:
        first = pairs[0]
        sentence = f"{self.title}: {printable_folder(first.images)}"
        sentence += " with images and masks together" if first.masks == first.images else ""
        sentence += f" with {printable_folder(_shortened(first))}" if first.masks != first.images else ""
        sentence += f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        notes = [_affixes(groups)] if _affixes(groups) else []
        notes += [f"list {printable(source.rpartition(b'/')[2])}"] if source is not None else []
        return f"{sentence} ({', '.join(notes)})" if notes else sentence


def _shortened(pair: FolderPair) -> bytes:
    """Return the masks' folder, by its name alone where it lies beside that of the images."""
    images, masks = pair.images.rpartition(b"/"), pair.masks.rpartition(b"/")
    return masks[2] if images[0] == masks[0] else pair.masks


def _affixes(groups: list[Group]) -> str:
    """Return what most pairs add to their common stem: "suffix _mask"."""
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for group in groups:
        counts.update(group.affixes)
    if sum(counts.values()) * 2 < sum(len(group.images) for group in groups):
        return ""
    used = [
        printable(affix) for affix in max(counts, key=lambda pair: (counts[pair], pair), default=(b"", b"")) if affix
    ]
    kind = "prefix" if any(affix.endswith(("-", "_", ".", " ")) for affix in used) else "suffix"
    return f"{kind}{'es' if len(used) > 1 else ''} {' and '.join(used)}" if used else ""


def _match_folders(
    tree: Tree, pair: FolderPair, left_out: Tally, aside: re.Pattern[bytes] | None = None
) -> list[Group]:
    """Match each sub-folder of the images with that of the masks of the same name."""
    if pair.images == pair.masks:
        return [
            match_within(folder.path, _used(folder.files, aside))
            for folder in tree.walk(pair.images, left_out)
            if not (aside and aside.search(folder.path))
        ]
    images = _below(tree, pair.images, pair.masks, left_out)
    masks = _below(tree, pair.masks, pair.images, left_out)
    groups = []
    for name in sorted(images.keys() | masks.keys()):
        ours = images.get(name) or Folder(join(pair.images, name), b"")
        theirs = masks.get(name) or Folder(join(pair.masks, name), b"")
        groups.append(match(ours.path, ours.files, theirs.path, _used(theirs.files, aside)))
    return groups


def _used(names: list[bytes], aside: re.Pattern[bytes] | None) -> list[bytes]:
    return names if aside is None else [name for name in names if not aside.search(name)]


def _below(tree: Tree, top: bytes, skip: bytes, left_out: Tally) -> dict[bytes, Folder]:
    """Return the folders from `top` down, by their path from there."""
    skipped = None if top == skip or top.startswith(join(skip, b"")) or not skip else skip
    folders = tree.walk(top, left_out, skipped)
    return {folder.path[len(top) :].lstrip(b"/"): folder for folder in folders}
