"""Which files lie below a path? A look of bounded time that keeps an even sample, and opens none of them."""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

CLOCK_EVERY = 256
"""Entries from one look at the clock to the next: 0.3 ms on a local disk. On a slow file system the time of so many
entries is what a walk may take beyond its limit; looking at each would make the walk slower by a tenth."""


@dataclass(frozen=True, slots=True)
class FileSample:
    """What a walk saw. Paths are bytes: a name that is not UTF-8 is a name like any other."""

    paths: tuple[bytes, ...]
    """Evenly spread over the files seen, in the order of the walk."""
    seen: int
    """Files and links to files, those with hidden names left out."""
    is_complete: bool
    """Whether all folders were walked to their end."""
    refused: int = 0
    """Folders that could not be listed."""
    refused_example: bytes | None = None
    """One of them."""


def sample_files(root: bytes, limit_s: float, keep: int, *, clock: Callable[[], float] = time.monotonic) -> FileSample:
    """Walk a folder, or take a file as its own sample. Links to folders are not followed.

    Args:
        root: A folder or file, absolute or not.
        limit_s: Seconds after which the walk stops; then `is_complete` is False.
        keep: Files kept at most; half as many at least, if there are as many.
        clock: Monotonic seconds.

    Raises:
        OSError: The root is not there or cannot be listed.
    """
    if not stat.S_ISDIR(os.stat(root).st_mode):  # noqa: PTH116 - paths are bytes here
        return FileSample(paths=(root,), seen=1, is_complete=True)
    with os.scandir(root):  # what cannot even be begun is an error, not an empty folder
        pass
    walk = _Walk(keep, clock, clock() + limit_s)
    is_complete = walk.go_through(root)
    return FileSample(tuple(walk.kept), walk.seen, is_complete, walk.refused, walk.refused_example)


class _Walk:
    """One walk under way. Every `stride`-th file is kept; when too many are, every other one goes."""

    def __init__(self, keep: int, clock: Callable[[], float], deadline_s: float) -> None:
        self.kept: list[bytes] = []
        self.seen = self.refused = 0
        self.refused_example: bytes | None = None
        self._keep, self._stride = max(1, keep), 1
        self._clock, self._deadline_s = clock, deadline_s
        self._entries = 0

    def go_through(self, root: bytes) -> bool:
        """Walk all folders; say whether there was time for them."""
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        self._entries += 1
                        if self._entries % CLOCK_EVERY == 0 and self._clock() > self._deadline_s:
                            return False
                        self._take(entry, folders)
            except OSError:
                self.refused += 1
                self.refused_example = self.refused_example or folder
            if self._clock() > self._deadline_s and folders:
                return False
        return True

    def _take(self, entry: os.DirEntry[bytes], folders: list[bytes]) -> None:
        if entry.name.startswith(b"."):
            return
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif entry.is_file():  # a link costs a stat: its target may be a folder, or gone
            if self.seen % self._stride == 0:
                self.kept.append(entry.path)
                if len(self.kept) > self._keep:
                    del self.kept[1::2]
                    self._stride *= 2
            self.seen += 1
