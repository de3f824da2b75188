"""What is said of the data's files, file system, disk and page cache."""

from dataclasses import replace

import pytest

from loadtune.doctor.storage_checks import (
    CACHED_RATIO,
    STORAGE_CHECKS,
    data,
    disk,
    file_system,
    fits_memory,
    page_cache,
)
from loadtune.monitor.filesample import FileSample
from loadtune.monitor.pagecache import Residency
from loadtune.monitor.procfs import Mount
from loadtune.monitor.storage import Disk
from loadtune.records.diagnosis import Severity
from tests.machines import MIB, STORAGE, healthy, host, storage

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity


def mount(kind: str, source: str = "/dev/sda1") -> Mount:
    return Mount("/", "/data", kind, frozenset(), "8:1", source)


def residency(resident_bytes: int = 0, told: int = 400, files: int = 400, **changes) -> Residency:
    """Return a look at files of 1 MiB."""
    return Residency(
        files=files,
        file_bytes=files * MIB,
        told=told,
        looked_bytes=told * MIB,
        resident_bytes=resident_bytes,
        **changes,
    )


def test_healthy_storage_is_fine() -> None:
    """A line each."""
    lines = [check(healthy()) for check in STORAGE_CHECKS]
    assert [line.severity for line in lines if line is not None] == [OK] * 5


def test_nothing_is_said_where_no_data_were_named() -> None:
    """Storage is looked at on request."""
    assert [check(healthy(storage=None)) for check in STORAGE_CHECKS] == [None] * 5


def test_what_cannot_be_looked_at_is_one_error() -> None:
    """The other lines would only repeat it."""
    lines = [check(storage(problem="does not exist", files=None)) for check in STORAGE_CHECKS]
    assert [line.severity for line in lines if line is not None] == [ERROR]
    assert lines[0] is not None
    assert lines[0].found == "/data/voc does not exist"


def test_code_is_no_folder() -> None:
    """`train.py:make` is good for a probe, and says nothing of storage."""
    lines = [check(storage(path="train.py:make", is_reference=True)) for check in STORAGE_CHECKS]
    assert [line.severity for line in lines if line is not None] == [UNKNOWN]


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({}, OK, "400 files, 400 MiB"),
        ({"files": FileSample((b"a",), 1, is_complete=True), "residency": residency(files=1, told=1)}, OK, "1 file, 1"),
        (
            {"files": FileSample((b"a",) * 400, 900_000, is_complete=False)},
            OK,
            "more than 900,000 files, more than 879 GiB",
        ),
        ({"files": FileSample((), 0, is_complete=True), "residency": residency(files=0, told=0)}, ERROR, "no file"),
        (
            {"files": FileSample((b"a",), 400, True, refused=1, refused_example=b"/data/\xff")},
            WARNING,
            "1 folder cannot be listed, such as /data/\\udcff",
        ),
        (
            {"residency": residency(files=399, told=399, refused=1, refused_reason="Permission denied")},
            ERROR,
            "1 of 400 files tried cannot be opened (Permission denied)",
        ),
    ],
)
def test_data_are_there_and_can_be_read(changes, severity, said) -> None:
    """No file, a folder that is closed, a file that cannot be opened."""
    line = data(storage(**changes))
    assert line is not None
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(
    ("kind", "severity"),
    [
        ("ext4", OK),
        ("nfs4", WARNING),
        ("virtiofs", WARNING),
        ("fuse.sshfs", WARNING),
        ("fuse.mergerfs", NOTE),
        ("overlay", NOTE),
        ("tmpfs", NOTE),
    ],
)
def test_file_systems_are_told_apart(kind, severity) -> None:
    """Over a network, in memory, in a container's layers, or served by a program."""
    line = file_system(storage(mount=mount(kind)))
    assert line is not None
    assert line.severity is severity
    assert kind in (line.found or "")


def test_an_unknown_mount_is_unknown() -> None:
    """No /proc, no file system."""
    line = file_system(storage(mount=None))
    assert line is not None
    assert line.severity is UNKNOWN
    assert disk(storage(mount=None)) is None


@pytest.mark.parametrize(
    ("disks", "severity", "said"),
    [
        ((Disk("sda", "WD", True, False),), WARNING, "sda, a spinning disk (WD)"),
        ((Disk("sda", None, False, False),), OK, "sda, a solid-state disk"),
        ((Disk("sda", None, None, False),), OK, "sda, a disk"),
        ((Disk("vda", None, True, True),), OK, "vda, a virtual disk: what is behind it can only be measured"),
        ((Disk("sda", None, False, False), Disk("sdb", None, True, False)), WARNING, "sdb, a spinning disk"),
        ((), UNKNOWN, None),
    ],
)
def test_disks_that_seek_are_warned_of(disks, severity, said) -> None:
    """What a virtual disk says of itself is worth nothing."""
    line = disk(storage(disks=disks))
    assert line is not None
    assert line.severity is severity
    assert said is None or said in (line.found or "")


@pytest.mark.parametrize("kind", ["nfs4", "tmpfs"])
def test_there_is_no_disk_behind_memory_or_a_network(kind) -> None:
    """Then nothing is said."""
    assert disk(storage(mount=mount(kind), disks=())) is None


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({"residency": residency(int(CACHED_RATIO * 400 * MIB))}, OK, "95 % of 400 MiB looked at, in all 400 files"),
        ({"residency": residency(int(CACHED_RATIO * 400 * MIB) - 1)}, NOTE, "all 400 files"),
        ({"residency": residency(0)}, NOTE, "0 % of 400 MiB"),
        (
            {"residency": residency(0), "files": replace(STORAGE.files, seen=401)},
            NOTE,
            "in a sample of 400 files",
        ),
        (
            {"residency": residency(0), "files": replace(STORAGE.files, is_complete=False)},
            NOTE,
            "in a sample of 400 files of the part that there was time to list",
        ),
        ({"residency": residency(0, told=0)}, UNKNOWN, "of files that this user owns"),
        ({"residency": residency(0, told=0, files=0)}, UNKNOWN, "could be opened"),
        ({"mount": mount("zfs")}, UNKNOWN, "ARC"),
    ],
)
def test_page_cache_is_told_of_a_sample_that_says_so(changes, severity, said) -> None:
    """What the kernel does not tell is unknown, and never "all of it"."""
    line = page_cache(storage(**changes))
    assert line is not None
    assert line.severity is severity
    assert said in f"{line.found} {line.reason}"


def test_files_in_memory_have_no_page_cache_to_tell_of() -> None:
    """tmpfs is memory."""
    assert page_cache(storage(mount=mount("tmpfs"))) is None
    assert fits_memory(storage(mount=mount("tmpfs"))) is None


def test_data_fit_into_half_of_the_available_memory_or_do_not() -> None:
    """400 MiB, with 800 MiB available, and with a page less."""
    fitting = host(memory_available_bytes=800 * MIB)
    line = fits_memory(fitting)
    assert line is not None
    assert line.severity is OK
    line = fits_memory(host(memory_available_bytes=800 * MIB - 2))
    assert line is not None
    assert line.severity is NOTE


def test_a_part_of_the_data_fits_and_the_whole_is_unknown() -> None:
    """More than memory is certain from a part; less is not."""
    cut_short = replace(STORAGE.files, seen=100_000, is_complete=False)
    line = fits_memory(storage(files=cut_short))
    assert line is not None
    assert line.severity is NOTE
    assert (line.found or "").startswith("at least 97.7 GiB")
    line = fits_memory(storage(files=replace(cut_short, seen=400)))
    assert line is not None
    assert line.severity is UNKNOWN


def test_no_size_no_word_about_memory() -> None:
    """Where no file could be opened."""
    assert fits_memory(storage(residency=residency(files=0, told=0))) is None
