"""How much of a file is in the page cache: asked of this kernel, which is never made to read the file."""

import os
from pathlib import Path

import pytest

from loadtune.monitor import pagecache
from loadtune.monitor.pagecache import PART_BYTES, PARTS, WHOLE_FILE_BYTES, read_residency
from loadtune.monitor.procfs import PAGE_BYTES

MIB = 1 << 20


def write(path: Path, size: int, *, is_dropped: bool = False) -> bytes:
    """Write a file to storage, and have its pages dropped where that is asked for."""
    with path.open("wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
        if is_dropped:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return os.fsencode(path)


def look(*paths: bytes, limit_s: float = 60.0, **options):
    return read_residency(paths, limit_s, **options)


def test_what_was_just_written_is_in_the_page_cache(tmp_path: Path) -> None:
    """All of it, and no more than the file is long."""
    found = look(write(tmp_path / "warm", 3 * MIB + 1))
    assert (found.files, found.told, found.looked_bytes, found.resident_bytes) == (1, 1, 3 * MIB + 1, 3 * MIB + 1)
    assert found.resident_ratio == 1.0
    assert found.mean_bytes == 3 * MIB + 1


def test_what_was_dropped_is_not_and_asking_does_not_read_it(tmp_path: Path) -> None:
    """Twice the same answer; where the kernel keeps all pages, as in memory, there is nothing to drop."""
    path = write(tmp_path / "cold", 2 * MIB, is_dropped=True)
    first = look(path)
    if first.resident_bytes:
        pytest.skip("this file system does not drop pages")
    assert first.looked_bytes == 2 * MIB
    assert look(path).resident_bytes == 0


def test_a_part_that_is_read_is_in_the_page_cache(tmp_path: Path) -> None:
    """Reading one page brings it in, with a few around it."""
    path = write(tmp_path / "partly", 4 * MIB, is_dropped=True)
    if look(path).resident_bytes:
        pytest.skip("this file system does not drop pages")
    with (tmp_path / "partly").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(1)
    assert PAGE_BYTES <= look(path).resident_bytes < 2 * MIB


def test_an_empty_file_and_no_file_say_nothing(tmp_path: Path) -> None:
    """No byte, no share."""
    found = look(write(tmp_path / "empty", 0))
    assert (found.files, found.told, found.resident_ratio, found.mean_bytes) == (1, 1, None, 0.0)
    assert (look().resident_ratio, look().mean_bytes) == (None, None)


def test_files_that_are_gone_closed_or_no_files_are_counted(tmp_path: Path) -> None:
    """A pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    found = look(os.fsencode(tmp_path / "gone"), os.fsencode(tmp_path / "link"), os.fsencode(tmp_path / "pipe"))
    assert (found.files, found.refused, found.refused_reason) == (0, 3, "No such file or directory")
    assert look(b"/dev/null").refused_reason == "not a regular file"


def test_a_stranger_s_file_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would call each of its pages resident."""
    path = write(tmp_path / "theirs", MIB)
    monkeypatch.setattr(pagecache.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(pagecache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(pagecache, "_counts_as_owner", lambda: False)
    found = look(path)
    assert (found.files, found.told, found.looked_bytes, found.file_bytes) == (1, 0, 0, MIB)
    assert found.resident_ratio is None
    monkeypatch.setattr(pagecache.os, "access", lambda path, mode: mode == os.W_OK)
    assert look(path).told == 1


def test_what_cannot_be_mapped_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems of programs refuse it."""
    path = write(tmp_path / "unmapped", MIB)
    monkeypatch.setattr(pagecache, "_count_resident", lambda descriptor, offset, length: None)
    assert (look(path).files, look(path).told) == (1, 0)


def test_files_beyond_the_time_are_left_out() -> None:
    """And counted."""
    ticks = iter(range(100))
    found = look(*[os.fsencode(__file__)] * 5, limit_s=2.5, clock=lambda: float(next(ticks)))
    assert (found.files, found.skipped) == (2, 3)


@pytest.mark.parametrize("size", [1, PAGE_BYTES, WHOLE_FILE_BYTES, WHOLE_FILE_BYTES + 1, 1 << 40])
def test_parts_lie_on_pages_within_the_file(size: int) -> None:
    """The whole of a small file; parts of a large one, the first and the last among them."""
    parts = list(pagecache._list_parts(size))
    assert all(offset % PAGE_BYTES == 0 and length > 0 and offset + length <= size for offset, length in parts)
    if size <= WHOLE_FILE_BYTES:
        assert parts == [(0, size)]
    else:
        assert len(parts) == PARTS
        assert parts[0] == (0, PART_BYTES)
        assert size - sum(parts[-1]) < PAGE_BYTES


def test_a_large_file_is_looked_at_in_parts(tmp_path: Path) -> None:
    """A sparse one, of which nothing was ever written or read."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    found = look(os.fsencode(path))
    assert (found.looked_bytes, found.file_bytes) == (PARTS * PART_BYTES, 1 << 30)
    assert found.resident_bytes == 0
