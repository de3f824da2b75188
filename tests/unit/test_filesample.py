"""A walk of bounded time over folders of any kind."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.monitor import filesample
from loadtune.monitor.filesample import sample_files


def sample(path: Path | bytes, limit_s: float = 60.0, keep: int = 100, **options):
    return sample_files(os.fsencode(path), limit_s, keep, **options)


def test_every_file_is_seen_and_hidden_ones_are_not(tmp_path: Path) -> None:
    """Folders below folders; names that begin with a dot are clutter."""
    for name in ("a/1.jpg", "a/b/2.jpg", "3.jpg", ".git/objects/4", "a/.5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = sample(tmp_path)
    assert {os.path.relpath(path, os.fsencode(tmp_path)) for path in found.paths} == {
        b"a/1.jpg",
        b"a/b/2.jpg",
        b"3.jpg",
    }
    assert (found.seen, found.is_complete, found.refused) == (3, True, 0)


def test_names_that_are_not_utf8_are_names(tmp_path: Path) -> None:
    """Bytes in, bytes out."""
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe.jpg")).touch()
    assert sample(folder).paths == (os.fsencode(folder) + b"/\xfe.jpg",)


def test_links_to_files_count_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """A link upwards would make the walk endless; a link to nowhere is no file; a pipe is none either."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    found = sample(tmp_path)
    assert sorted(map(os.path.basename, found.paths)) == [b"file", b"link"]


def test_a_file_is_its_own_sample(tmp_path: Path) -> None:
    """A shard, or a table."""
    shard = tmp_path / "train-0000.tar"
    shard.write_text("x")
    assert sample(shard).paths == (os.fsencode(shard),)
    assert sample(shard).seen == 1


def test_a_folder_that_is_closed_is_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter all, so the refusal is played."""
    for name in ("open", "closed", "closed too"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    scandir = os.scandir

    def refuse(path):
        if b"/closed" in path:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(filesample.os, "scandir", refuse)
    found = sample(tmp_path)
    assert (found.seen, found.refused, found.is_complete) == (1, 2, True)
    assert b"closed" in (found.refused_example or b"")
    with pytest.raises(PermissionError):
        sample(tmp_path / "closed")


@pytest.mark.parametrize("missing", [b"/nowhere/at/all", b""])
def test_a_root_that_is_not_there_is_an_error(missing: bytes) -> None:
    """For the caller to tell."""
    with pytest.raises(FileNotFoundError):
        sample(missing)


class Clock:
    """A clock that moves by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_a_walk_stops_when_its_time_is_over(tmp_path: Path) -> None:
    """Within a large folder, at the next look at the clock; what was seen until then is kept."""
    for number in range(5 * filesample.CLOCK_EVERY):
        (tmp_path / str(number)).touch()
    found = sample(tmp_path, limit_s=2.5, clock=Clock())
    assert not found.is_complete
    assert 2 * filesample.CLOCK_EVERY <= found.seen < 4 * filesample.CLOCK_EVERY
    assert sample(tmp_path, limit_s=100.0, clock=Clock()).is_complete


def test_a_walk_stops_among_many_small_folders_too(tmp_path: Path) -> None:
    """A folder a sample: no one of them has entries enough for a look at the clock."""
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "image.jpg").touch()
    found = sample(tmp_path, limit_s=5.5, clock=Clock())
    assert not found.is_complete
    assert 0 < found.seen < 20


@given(files=st.integers(0, 300), keep=st.integers(1, 40))
def test_the_sample_is_even_and_of_bounded_size(files: int, keep: int) -> None:
    """At most what is to be kept, at least half of it where there is as much, and no stretch without one."""
    walk = filesample._Walk(keep, lambda: 0.0, 1.0)
    for number in range(files):
        walk._take(Entry(number), [])  # type: ignore[arg-type]
    kept = list(map(int, walk.kept))
    assert walk.seen == files
    assert len(kept) <= keep
    assert len(kept) >= min(files, keep) / 2
    assert len({right - left for left, right in pairwise(kept)}) <= 1


class Entry:
    """What os.scandir yields for a file."""

    def __init__(self, number: int) -> None:
        self.name = self.path = b"%d" % number

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return False

    def is_file(self) -> bool:
        return True
