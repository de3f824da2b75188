"""What lies in the data set's folder? Scans on demand, each folder once, and leaves the folder by no way.

It opens no file. Names are bytes: they sort alike everywhere, and one that is not UTF-8 is a name like any other.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadtune.dataset.leftout import LEAVES, LISTED_ALREADY, NOT_REGULAR, NOWHERE, TOO_DEEP, Tally, join

CLUTTER = frozenset({b"__MACOSX", b"Thumbs.db", b"desktop.ini", b"@eaDir", b"$RECYCLE.BIN", b"lost+found"})
"""What systems leave in folders; passed over in silence, as hidden names are."""

DEPTH_LIMIT = 32
"""Deepest folder looked into. Without it a tree made to be deep ends in a path the system refuses."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One scanned folder."""

    path: bytes
    """Relative to the root; b"" is the root."""
    real: bytes
    """Where it is, absolute, free of links."""
    files: list[bytes] = field(default_factory=list)
    """Names of regular files and of links to such within the tree, in no order."""
    folders: dict[bytes, bytes] = field(default_factory=dict)
    """Name to real path, in byte order."""
    linked: set[bytes] = field(default_factory=set)
    """Those of `folders` that are links."""
    left_out: Tally = field(default_factory=Tally)
    """What is neither file nor folder of this tree."""


class Tree:
    """The data set's folder and what is below it.

    Args:
        root: Absolute path, free of links.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._prefix = root.rstrip(b"/") + b"/"
        self._file_sets: dict[bytes, frozenset[bytes]] = {}
        self._real_parents: dict[bytes, bytes] = {}
        self._folders: dict[bytes, Folder] = {b"": _scan(b"", root, self)}

    def folder(self, path: bytes) -> Folder:
        """Return a folder, scanned when first asked for; one that is not there is empty."""
        found = self._folders.get(path)
        if found is None:
            parent, _, name = path.rpartition(b"/")
            real = self.folder(parent).folders.get(name)
            found = _scan(path, real, self) if real is not None else Folder(path, b"")
            self._folders[path] = found
        return found

    def walk(self, path: bytes, left_out: Tally, skip: bytes | None = None) -> Iterator[Folder]:
        """Yield a folder and all below it, each real folder once, links last.

        Args:
            path: Where to begin.
            left_out: Takes what is not part of the tree.
            skip: A folder not to enter, by its path or through a link.
        """
        seen = {self.folder(skip).real} if skip is not None else set()
        folders, links = deque([path]), deque[bytes]()
        while folders or links:
            here, is_link = (folders.popleft(), False) if folders else (links.popleft(), True)
            folder = self.folder(here)
            if folder.real in seen:
                if is_link:
                    left_out.add(LISTED_ALREADY, here)
                continue
            seen.add(folder.real)
            left_out.merge(folder.left_out)
            yield folder
            for name in folder.folders:
                child = join(here, name)
                if child.count(b"/") > DEPTH_LIMIT:
                    left_out.add(TOO_DEEP, child)
                else:
                    (links if name in folder.linked else folders).append(child)

    def locate(self, path: bytes) -> bytes | None:
        """Return the file of this tree with the longest tail in common with a path, perhaps of another machine."""
        parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
        if b".." in parts:
            parts = parts[len(parts) - parts[::-1].index(b"..") :]
        parts = parts[-DEPTH_LIMIT:]
        for first in range(len(parts)):
            tail = parts[first:]
            if self._has_folders(tail[:-1]) and tail[-1] in self._file_set(b"/".join(tail[:-1])):
                return b"/".join(tail)
        return None

    def resolve(self, folder: bytes, name: bytes) -> bytes | None:
        """Return where a link in a real folder leads, or None where it leads nowhere.

        Parents are remembered: a data set may be a million links into one other folder.
        """
        try:
            link = folder + b"/" + name
            target = os.readlink(link)  # noqa: PTH115 - paths are bytes here
            parent, _, base = (target if target.startswith(b"/") else folder + b"/" + target).rpartition(b"/")
            if base in {b"", b".", b".."} or not parent:
                return os.path.realpath(link, strict=True)
            if parent not in self._real_parents:
                self._real_parents[parent] = os.path.realpath(parent, strict=True)
            target = self._real_parents[parent].rstrip(b"/") + b"/" + base
            return os.path.realpath(target, strict=True) if stat.S_ISLNK(os.lstat(target).st_mode) else target
        except OSError:
            return None

    def contains(self, real: bytes) -> bool:
        """Say whether a path free of links is the root or below it."""
        return real == self.root or real.startswith(self._prefix)

    def _has_folders(self, parts: list[bytes]) -> bool:
        here = b""
        for part in parts:
            if part not in self.folder(here).folders:
                return False
            here = join(here, part)
        return True

    def _file_set(self, path: bytes) -> frozenset[bytes]:
        if path not in self._file_sets:
            self._file_sets[path] = frozenset(self.folder(path).files)
        return self._file_sets[path]


def _scan(path: bytes, real: bytes, tree: Tree) -> Folder:
    """List one folder by the types that the directory itself gives, so that no file is touched."""
    files: list[bytes] = []
    folders: list[bytes] = []
    links: list[bytes] = []
    left_out = Tally()
    try:
        with os.scandir(real) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b".") or name in CLUTTER:
                    continue
                if entry.is_file(follow_symlinks=False):
                    files.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif entry.is_symlink():
                    links.append(name)
                else:
                    left_out.add(NOT_REGULAR, join(path, name))
    except OSError as error:
        left_out.add(f"cannot be read: {error.strerror}", path or b".")
    targets = {name: real.rstrip(b"/") + b"/" + name for name in folders}
    folder = Folder(path, real, files, targets, set(), left_out)
    for name in links:
        _follow(folder, name, tree)
    in_order = sorted(folder.folders.items())
    folder.folders.clear()
    folder.folders.update(in_order)
    return folder


def _follow(folder: Folder, name: bytes, tree: Tree) -> None:
    """Enter a link under what it leads to, if that is in the tree."""
    target = tree.resolve(folder.real, name)
    mode = _mode(target) if target is not None and tree.contains(target) else 0
    if target is None:
        folder.left_out.add(NOWHERE, join(folder.path, name))
    elif not tree.contains(target):
        folder.left_out.add(LEAVES, join(folder.path, name))
    elif stat.S_ISREG(mode):
        folder.files.append(name)
    elif stat.S_ISDIR(mode):
        folder.folders[name] = target
        folder.linked.add(name)
    else:
        folder.left_out.add(NOT_REGULAR, join(folder.path, name))


def _mode(path: bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
