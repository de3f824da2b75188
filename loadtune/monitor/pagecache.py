"""How much of some files is in the page cache? Asked of the kernel with mincore(2), which reads nothing in.

Since Linux 5.2 the kernel tells it only of files that this process owns or could write, and calls every page of any
other file resident (can_do_mincore in mm/mincore.c). Such files are counted as not told, never as cached.
"""

import ctypes
import errno
import mmap
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loadtune.monitor.procfs import PAGE_BYTES

WHOLE_FILE_BYTES = 1 << 26
"""Files up to this size are looked at whole; of larger ones, parts are. Asking for a page takes about 20 ns, so a
64 MiB file takes under a millisecond; a terabyte of shards would take minutes."""

PARTS, PART_BYTES = 32, 1 << 20
"""Of a larger file, how many parts are looked at, evenly spread, and how long each is. Fewer would miss what a reader
of shards leaves behind: the kernel drops a file's pages in long runs."""

CAP_FOWNER = 3
"""From linux/capability.h."""

ALL_USERS = ["0", "0", "4294967295"]
"""/proc/self/uid_map where no user namespace is in between."""

_MAP_FAILED = ctypes.c_void_p(-1).value
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))
"""Of each byte that mincore gives, only this bit has a meaning."""


@dataclass(slots=True)
class Residency:
    """What the kernel said about a sample of files. All counts are of the sample."""

    files: int = 0
    """Files that could be opened."""
    file_bytes: int = 0
    """Their size together."""
    told: int = 0
    """Those of them of which the kernel tells this process."""
    looked_bytes: int = 0
    """Bytes that were asked about."""
    resident_bytes: int = 0
    """Of these, bytes in the page cache."""
    refused: int = 0
    """Files that this process may not read, or that are gone."""
    refused_reason: str | None = None
    """Why the first of them cannot be read."""
    skipped: int = 0
    """Files that there was no time for."""

    @property
    def resident_ratio(self) -> float | None:
        """Share of what was asked about that is in the page cache; None: nothing was."""
        return self.resident_bytes / self.looked_bytes if self.looked_bytes else None

    @property
    def mean_bytes(self) -> float | None:
        """Mean size of a file; None: none could be opened."""
        return self.file_bytes / self.files if self.files else None


def read_residency(paths: Iterable[bytes], limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> Residency:
    """Ask the kernel about files. Opens each, reads none.

    Args:
        paths: The files; what is not a regular file counts as refused.
        limit_s: Seconds after which no further file is asked about.
        clock: Monotonic seconds.
    """
    deadline_s = clock() + limit_s
    found = Residency()
    for path in paths:
        if clock() > deadline_s:
            found.skipped += 1
            continue
        try:
            _look_at(path, found)
        except OSError as error:
            found.refused += 1
            found.refused_reason = found.refused_reason or error.strerror or str(error)
    return found


def _look_at(path: bytes, found: Residency) -> None:
    """Add one file to what was found.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    # O_NONBLOCK: a FIFO put in the file's place would otherwise wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        found.files += 1
        found.file_bytes += status.st_size
        if not _is_told(path, status):
            return
        parts = [
            (length, _count_resident(descriptor, offset, length)) for offset, length in _list_parts(status.st_size)
        ]
        if all(pages is not None for _, pages in parts):
            found.told += 1
            found.looked_bytes += sum(length for length, _ in parts)
            found.resident_bytes += sum(min(length, (pages or 0) * PAGE_BYTES) for length, pages in parts)
    finally:
        os.close(descriptor)


def _is_told(path: bytes, status: os.stat_result) -> bool:
    """Say whether this process owns the file, or counts as its owner, or could write it."""
    return status.st_uid == os.geteuid() or _counts_as_owner() or os.access(path, os.W_OK)


@cache
def _counts_as_owner() -> bool:
    """Say whether this process has CAP_FOWNER over every user's files: root, but not that of a user namespace."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        user_map = Path("/proc/self/uid_map").read_text("ascii").split()
    except OSError:
        return False
    return has_capability(status, CAP_FOWNER) and user_map == ALL_USERS


def has_capability(status: str, capability: int) -> bool:
    r"""Read from /proc/<pid>/status whether a capability is in effect.

    >>> has_capability("Name:\tpython\nCapEff:\t00000000a80425fb\n", CAP_FOWNER)
    True
    >>> has_capability("CapEff:\t0000000000000000\n", CAP_FOWNER)
    False
    """
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found.group(1), 16) >> capability & 1)


def _list_parts(size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what to look at; offsets are whole pages."""
    if size <= WHOLE_FILE_BYTES:
        if size:
            yield 0, size
        return
    for part in range(PARTS):
        offset = (size - PART_BYTES) * part // (PARTS - 1)
        yield offset - offset % mmap.ALLOCATIONGRANULARITY, PART_BYTES


def _count_resident(descriptor: int, offset: int, length: int) -> int | None:
    """Return the pages of a part that are in the page cache; None where it cannot be mapped, as on some FUSE mounts.

    The part is mapped and never touched: touching it would read it in.
    """
    libc = _open_libc()
    address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
    if address in {None, _MAP_FAILED}:
        return None
    try:
        pages = (ctypes.c_ubyte * (-(-length // PAGE_BYTES)))()
        if libc.mincore(address, length, pages) != 0:
            return None
        return bytes(pages).translate(_LOWEST_BIT).count(1)
    finally:
        libc.munmap(address, length)


@cache
def _open_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return libc
