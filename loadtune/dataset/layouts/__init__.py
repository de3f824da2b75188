"""Which layouts are known? A further one is a file in this folder and a line in `LAYOUTS`."""

from loadtune.dataset.candidate import Candidate, Collected, Layout, Search
from loadtune.dataset.layouts.paired import PairedFolders
from loadtune.dataset.layouts.voc import PascalVoc

__all__ = ["LAYOUTS", "Candidate", "Collected", "Layout", "Search"]

LAYOUTS: tuple[Layout, ...] = (PascalVoc(), PairedFolders())
"""The most specific first: of two that see the same images, the earlier is right."""
