"""Where do an image and its mask lie? Millions of pairs of paths in one read-only buffer that processes share.

It holds names and answers with names; it neither lists folders nor opens the files.

Layout, native byte order, since the buffer never leaves the machine::

    header      see _HEADER
    offsets     count + 1 of uint32, or of uint64 where the cores exceed 4 GiB
    rule ids    count of uint16
    table       root, then (image head, image tail, mask head, mask tail) of each rule, joined by NUL
    cores       what is left of each image's path without the head and tail of its rule

`images/00017.jpg` with `masks/00017_mask.png` is the core `00017` under the rule (`images/`, `.jpg`, `masks/`,
`_mask.png`). Rule 0 is for pairs that share no rule: their core is both paths, joined by NUL.
"""

import contextlib
import fcntl
import mmap
import operator
import os
import stat
import struct
import tempfile
from array import array
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np

_HEADER = struct.Struct("=8sIIQQQQ")
"""Magic, version, bytes of an offset, pairs, rules, bytes of the table, bytes of the cores. Its 48 bytes keep
the offsets aligned."""

_MAGIC = b"LTPAIRS\0"

_VERSION = 1
"""Of the buffer. It goes up when the layout above changes, so that a stale process refuses instead of misreading."""

RULE_LIMIT = 4096
"""Most rules. Each process holds them as objects, so a data set of unrelated names must not bring one a pair;
beyond 65535 the ids would overflow."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Nobody may change the buffer: shrinking it under a mapping would kill its readers by SIGBUS."""


class _Rule(NamedTuple):
    image_head: bytes
    image_tail: bytes
    mask_head: bytes
    mask_tail: bytes


_NO_RULE = _Rule(b"", b"", b"", b"")


class PairIndex:
    """The pairs of a data set, sorted by the bytes of the image's path.

    Made once by `write`; other processes `open` its `shared_path` while the maker lives. Pickling sends that
    path alone. Reading keeps no object, so a forked worker's memory stays as it is over an epoch.
    """

    __slots__ = ("_cores_at", "_count", "_file", "_ids", "_mapping", "_offsets", "_rules", "shared_path")

    def __init__(self, shared_path: str, file: BinaryIO, *, is_maker: bool) -> None:
        self._file = file if is_maker else None
        self.shared_path = shared_path
        """Path by which any process of the same user opens the buffer."""
        self._mapping = _map(file, shared_path)
        try:
            self._read_tables()
        except BaseException:
            self._mapping.close()
            raise

    @classmethod
    def write(cls, root: str | bytes | os.PathLike[str], pairs: Iterable[tuple[bytes, bytes]]) -> Self:
        """Write the pairs into an anonymous file in memory and return them, mapped.

        Args:
            root: Absolute path of the data set's folder.
            pairs: Paths of an image and its mask below the root, in any order, consumed once.

        Raises:
            ValueError: The root is not absolute, or a path contains NUL.
        """
        root_path = os.fsencode(root)
        if not root_path.startswith(b"/"):
            raise ValueError(f"the root of an index is an absolute path, not {os.fsdecode(root_path)!r}")
        file = _anonymous_file()
        try:
            _write_buffer(file, root_path.rstrip(b"/") + b"/", pairs)
            _seal(file)
            return cls(f"/proc/{os.getpid()}/fd/{file.fileno()}", file, is_maker=True)
        except BaseException:
            file.close()
            raise

    @classmethod
    def open(cls, shared_path: str) -> Self:
        """Map an index that another process, or this one, has written.

        Raises:
            ValueError: The file holds no index of this version.
            OSError: It cannot be opened: its maker has ended, for one.
        """
        descriptor = os.open(shared_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return cls(shared_path, file, is_maker=False)

    def __len__(self) -> int:
        return int(self._count)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole buffer."""
        return len(self._mapping)

    def pair(self, number: int, /) -> tuple[str, str]:
        """Return the absolute paths of an image and its mask.

        Raises:
            IndexError: There is no such pair; a negative number is none.
            ValueError: The index is closed.
        """
        if not 0 <= number < self._count:
            raise IndexError(f"pair {number} of {self._count}")
        start, end = self._cores_at + self._offsets[number], self._cores_at + self._offsets[number + 1]
        core = self._mapping[start:end]
        rule_id = self._ids[number]
        image_head, image_tail, mask_head, mask_tail = self._rules[rule_id]
        if rule_id == 0:
            image, _, mask = core.partition(b"\0")
            return os.fsdecode(image_head + image), os.fsdecode(mask_head + mask)
        return os.fsdecode(image_head + core + image_tail), os.fsdecode(mask_head + core + mask_tail)

    def files(self, number: int, /) -> tuple[str, ...]:
        """Return the absolute paths of the files behind a pair.

        A mask that is no file of its own is a line of text after a path and a newline (`candidate.Collected.masks`).
        That path may be a file, which then counts, or may not be.

        Raises:
            IndexError: There is no such pair; a negative number is none.
            ValueError: The index is closed.
        """
        image, mask = self.pair(number)
        holder, newline, _ = mask.rpartition("\n")
        if not newline:
            return image, mask
        # A folder holds the parts of a mask, by their names; whatever is not there as a file is text.
        parts = [f"{holder}/{name}" for name in mask[len(holder) + 1 :].split("/")] if holder else []
        return (image, *(path for path in (*parts, holder, mask) if os.path.isfile(path)))  # noqa: PTH113

    def close(self) -> None:
        """Unmap the buffer; the maker's descriptor goes with it, and then nobody can open it any more."""
        self._offsets.release()
        self._ids.release()
        self._mapping.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # an index that was refused has no tables
            self.close()

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return type(self).open, (self.shared_path,)

    def _read_tables(self) -> None:
        magic, version, width, count, rule_count, table_bytes, core_bytes = _HEADER.unpack_from(self._mapping)
        if magic != _MAGIC or version != _VERSION or width not in {4, 8}:
            raise ValueError(f"{self.shared_path} holds no index of version {_VERSION}")
        ids_at = _HEADER.size + (count + 1) * width
        table_at = ids_at + count * 2
        if table_at + table_bytes + core_bytes != len(self._mapping):
            raise ValueError(f"{self.shared_path} is cut short, or longer than its header says")
        root, *fields = self._mapping[table_at : table_at + table_bytes].split(b"\0")
        view = memoryview(self._mapping)
        offsets, ids = view[_HEADER.size : ids_at].cast("I" if width == 4 else "Q"), view[ids_at:table_at].cast("H")
        view.release()
        if (
            not root.startswith(b"/")
            or len(fields) != 4 * rule_count
            or not _are_valid(offsets, ids, core_bytes, rule_count)
        ):
            offsets.release()
            ids.release()
            raise ValueError(f"{self.shared_path} holds a damaged index")
        self._count, self._offsets, self._ids = count, offsets, ids
        self._cores_at = table_at + table_bytes
        self._rules = tuple(
            (root + image_head, image_tail, root + mask_head, mask_tail)
            for image_head, image_tail, mask_head, mask_tail in zip(*[iter(fields)] * 4, strict=True)
        )


def _are_valid(offsets: memoryview, ids: memoryview, core_bytes: int, rule_count: int) -> bool:
    """Say whether every pair lies within the cores and every rule exists."""
    places, rules = np.asarray(offsets), np.asarray(ids)
    in_order = bool((places[1:] >= places[:-1]).all())
    return in_order and places[0] == 0 and int(places[-1]) == core_bytes and int(rules.max(initial=0)) < rule_count


def _map(file: BinaryIO, name: str) -> mmap.mmap:
    """Map a whole file, read-only and shared."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size < _HEADER.size:
        raise ValueError(f"{name} holds no index")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _anonymous_file() -> BinaryIO:
    """Return a file without a name: in memory, or in the temporary folder where the kernel knows no memfd."""
    try:
        descriptor = os.memfd_create("loadtune-pairs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(buffering=0)
    return os.fdopen(descriptor, "w+b", buffering=0)


def _seal(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # a file of the temporary folder knows no seals
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)


def _write_buffer(file: BinaryIO, root: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    rules, ids, cores = _compress(pairs)
    lengths = np.fromiter(map(len, cores), dtype=np.uint64, count=len(cores))
    core_bytes = int(lengths.sum())
    width = 4 if core_bytes < 2**32 else 8
    offsets = np.zeros(len(cores) + 1, dtype=f"u{width}")
    np.cumsum(lengths, out=offsets[1:])
    table = b"\0".join([root, *(field for rule in rules for field in rule)])
    header = _HEADER.pack(_MAGIC, _VERSION, width, len(cores), len(rules), len(table), core_bytes)
    for part in (header, offsets.tobytes(), ids.tobytes(), table, b"".join(cores)):
        _write_all(file, part)


def _write_all(file: BinaryIO, part: bytes) -> None:
    """Write all of it: one call writes 2 GiB at most."""
    rest = memoryview(part)
    while rest:
        rest = rest[file.write(rest) :]


def _compress(pairs: Iterable[tuple[bytes, bytes]]) -> "tuple[list[_Rule], array[int], list[bytes]]":
    """Return the rules, and in the order of the image paths each pair's rule id and core."""
    known = {_NO_RULE: 0}
    rule, rule_id = _NO_RULE, 0
    image_at = 0
    images: list[bytes] = []
    cores: list[bytes] = []
    ids = array("H")
    for image, mask in pairs:
        core = image[image_at : len(image) - len(rule.image_tail)]
        # Neighbours mostly share a rule, and trying the last one is many times quicker than finding one.
        if (
            rule_id == 0
            or rule.image_head + core + rule.image_tail != image
            or rule.mask_head + core + rule.mask_tail != mask
        ):
            rule, core = _find_rule(image, mask)
            rule_id = known.setdefault(rule, len(known)) if len(known) < RULE_LIMIT else known.get(rule, 0)
            if rule_id == 0:
                core = image + b"\0" + mask
            image_at = len(rule.image_head)
        images.append(image)
        cores.append(core)
        ids.append(rule_id)
    if all(map(operator.le, images, islice(images, 1, None))):
        return list(known), ids, cores
    order = sorted(range(len(images)), key=images.__getitem__)
    return list(known), array("H", [ids[place] for place in order]), [cores[place] for place in order]


def _find_rule(image: bytes, mask: bytes) -> tuple[_Rule, bytes]:
    """Return the rule that two paths follow and their core, the longer of what their names begin or end with.

    The names are compared without their extensions from the end: `image_07.jpg` and `mask_07.png` share `_07`.
    """
    if b"\0" in image or b"\0" in mask:
        raise ValueError("a path contains NUL")
    image_folder, image_name = _split_name(image)
    mask_folder, mask_name = _split_name(mask)
    image_stem, image_dot, image_extension = image_name.rpartition(b".")
    mask_stem, mask_dot, mask_extension = mask_name.rpartition(b".")
    begin = _common_length(image_name, mask_name)
    end = _common_length(image_stem[::-1], mask_stem[::-1])
    if begin == 0 and end == 0:
        return _NO_RULE, b""
    if begin >= end:
        return _Rule(image_folder, image_name[begin:], mask_folder, mask_name[begin:]), image_name[:begin]
    heads = image_folder + image_stem[:-end], mask_folder + mask_stem[:-end]
    tails = image_dot + image_extension, mask_dot + mask_extension
    return _Rule(heads[0], tails[0], heads[1], tails[1]), image_stem[-end:]


def _split_name(path: bytes) -> tuple[bytes, bytes]:
    """Return a path's folder, with its slash, and name."""
    place = path.rfind(b"/") + 1
    return path[:place], path[place:]


def _common_length(left: bytes, right: bytes) -> int:
    """Return how many bytes two names have in common at their start."""
    for place, (ours, theirs) in enumerate(zip(left, right, strict=False)):
        if ours != theirs:
            return place
    return min(len(left), len(right))
