"""What does a layout have to say? It finds candidates in a tree, and a candidate lists the pairs of a split."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from loadtune.dataset.leftout import Tally
from loadtune.dataset.matching import Group
from loadtune.dataset.tree import Tree
from loadtune.records.stored import Masks, Stored


class Search(Enum):
    """How far a layout looks. A wider search is made only where the narrower has found no pair."""

    USUAL = auto()
    """The usual folder names at the usual places."""
    BELOW = auto()
    """The same, one folder further down."""
    ANYWHERE = auto()
    """All folders, names of files alone."""


@dataclass(slots=True)
class Collected:
    """The pairs of a split, and what was left out of it."""

    groups: list[Group] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)
    described: str = ""
    """One sentence for people, with folder names."""
    unmatched_list: bytes | None = None
    """The split's list, where it named no pair that there is."""
    masks: Masks = Masks()
    """How the masks are to be read. One that is no file of its own is a line of text after a path and a newline."""
    stored: Stored | None = None
    """Tables or shards, which hold the samples themselves; then there are no groups."""
    stored_count: int = 0
    """Samples they hold."""
    stored_bytes: int = 0

    def __len__(self) -> int:
        return self.stored_count + sum(len(group.images) for group in self.groups)


class Candidate(Protocol):
    """One way to read a tree."""

    @property
    def layout(self) -> str:
        """Name of the layout."""

    @property
    def folders(self) -> frozenset[bytes]:
        """Folders its images come from, relative to the root."""

    @property
    def chosen_by(self) -> str:
        """What tells it from other candidates: `--layout paired:images:labels`, or the sub-folder to give."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; empty where there are none."""

    def collect(self, split: str | None, /) -> Collected:
        """Return the samples of a split; of all of them for None.

        Raises:
            DatasetError: A file that says what they are cannot be used.
        """


@dataclass(frozen=True, slots=True)
class MadeCandidate:
    """A candidate whose layout does not pair files by name, and collects by a function of its own."""

    layout: str
    chosen_by: str
    folders: frozenset[bytes]
    splits: tuple[str, ...]
    collect: Callable[[str | None], Collected]


class Layout(Protocol):
    """One way to lay a segmentation data set out on disk."""

    @property
    def name(self) -> str:
        """What `--layout` takes."""

    @property
    def looked_for(self) -> str:
        """What it looks for, in a few words, for the message that says it was not there."""

    def find(self, tree: Tree, search: Search, folders: tuple[str, ...]) -> list[Candidate]:
        """Return the ways in which this layout fits.

        Args:
            tree: The data set's folder.
            search: How far to look.
            folders: What followed `--layout NAME:`; empty mostly.

        Raises:
            UsageError: This layout takes no such folders.
        """
