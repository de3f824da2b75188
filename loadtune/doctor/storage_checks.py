"""Where do the data lie, can they be read, and are they in memory already? One function a check.

They need a data set that was named; what is said of its files is said of a sample, and says so.
"""

from loadtune.doctor.readings import Readings, Storage
from loadtune.doctor.subject import Subject
from loadtune.monitor.hazards import judge_file_system
from loadtune.monitor.storage import MEMORY_FILE_SYSTEMS, Disk
from loadtune.records.diagnosis import Line
from loadtune.records.report import Evidence
from loadtune.render.words import format_bytes, format_percent, one_line

CACHED_RATIO = 0.95
"""From this share on, data count as in the page cache: what is missing then costs less than a comparison's noise."""

MEMORY_FIT_RATIO = 0.5
"""Share of the memory to be had that data may take and still be there for the next epoch: what a probe goes by, since
beyond it the kernel evicts what it has just read."""

OWN_CACHE_FILE_SYSTEMS = {"zfs": "its ARC", "gpfs": "its page pool"}
"""Types that keep file data outside of the page cache, and where."""

DATA = Subject("data", "data", "data set")
FILE_SYSTEM = Subject("file-system", "data", "file system")
DISK = Subject("disk", "data", "disk")
PAGE_CACHE = Subject("page-cache", "data", "page cache")
FIT = Subject("fits-memory", "data", "data and memory")


def data(readings: Readings) -> Line | None:
    """Whether the files can be listed and opened."""
    storage = readings.storage
    if storage is None:
        return None
    if storage.is_reference:
        return DATA.unknown("--dataset names code; give the folder that it reads to have storage looked at")
    if storage.problem is not None or storage.files is None:
        found = f"{_shown(storage)} {storage.problem}"
        return DATA.error(found, "a training cannot read it", "check the path, the mount and its permissions")
    files, residency = storage.files, storage.residency
    if not files.seen:
        fix = "check the path; is something to be mounted there?"
        return DATA.error(f"{_shown(storage)} holds no file", "there is nothing to read", fix)
    found = f"{_shown(storage)}: {_describe_files(storage)}"
    if files.refused:
        example = one_line((files.refused_example or b"").decode("utf-8", "surrogateescape"))
        found += f"; {_count(files.refused, 'folder')} cannot be listed, such as {example}"
        return DATA.warning(found, "their samples would be left out, or end the training", "check their permissions")
    if residency is not None and residency.refused:
        asked = residency.files + residency.refused
        found += f"; {residency.refused} of {asked} files tried cannot be opened ({residency.refused_reason})"
        return DATA.error(found, "the first of them ends a training", "check their permissions, and links to files")
    return DATA.ok(found, Evidence(name="files_seen", value=files.seen, unit="files"))


def file_system(readings: Readings) -> Line | None:
    """Whether the data come over a network."""
    storage = _looked_at(readings)
    if storage is None:
        return None
    if storage.mount is None:
        return FILE_SYSTEM.unknown("/proc/self/mountinfo names no mount for it")
    kind = storage.mount.file_system
    if (hazard := judge_file_system(kind)) is not None:
        return FILE_SYSTEM.warning(f"{kind}, over a network", hazard.why, hazard.fix)
    if kind in MEMORY_FILE_SYSTEMS:
        why = "its files count against the memory limit of the training"
        return FILE_SYSTEM.note(f"{kind}: the data are in memory", why, None)
    if kind == "overlay":
        why = "a container's own layers: opening many small files is slower in them"
        return FILE_SYSTEM.note(
            "overlay", why, "mount the data into the container instead of copying them into its image"
        )
    if kind.startswith("fuse"):
        why = "a program serves every read, with its own speed and its own cache"
        return FILE_SYSTEM.note(kind, why, "compare with a copy on a local disk")
    return FILE_SYSTEM.ok(kind)


def disk(readings: Readings) -> Line | None:
    """Whether the data are on a disk that seeks."""
    storage = _looked_at(readings)
    if storage is None or storage.mount is None or storage.mount.file_system in MEMORY_FILE_SYSTEMS:
        return None
    if judge_file_system(storage.mount.file_system) is not None:
        return None  # it is at the other end
    if not storage.disks:
        return DISK.unknown(f"/sys names no disk below {storage.mount.file_system} on {one_line(storage.mount.source)}")
    found = ", ".join(map(_describe_disk, storage.disks))
    if any(each.is_rotational and not each.is_virtual for each in storage.disks):
        why = "a spinning disk reads about a hundred small files a second in random order"
        return DISK.warning(found, why, "copy the data to an SSD, or pack them into shards that are read in order")
    if any(each.is_virtual for each in storage.disks):
        found += ": what is behind it can only be measured"
    return DISK.ok(found)


def page_cache(readings: Readings) -> Line | None:
    """How much of the data is in the page cache: a first epoch reads the rest from storage."""
    storage = _looked_at(readings)
    if storage is None or storage.files is None or storage.residency is None or not storage.files.seen:
        return None
    kind = "" if storage.mount is None else storage.mount.file_system
    if kind in MEMORY_FILE_SYSTEMS:
        return None
    if kind in OWN_CACHE_FILE_SYSTEMS:
        return PAGE_CACHE.unknown(
            f"{kind} keeps what was read in {OWN_CACHE_FILE_SYSTEMS[kind]}, not in the page cache"
        )
    residency, ratio = storage.residency, storage.residency.resident_ratio
    if ratio is None:
        return PAGE_CACHE.unknown(
            "the kernel tells it only of files that this user owns or may write, and these hold bytes"
            if residency.files
            else "no file of the sample could be opened"
        )
    whole = residency.told == storage.files.seen and storage.files.is_complete
    scope = f"all {_count(residency.told, 'file')}" if whole else f"a sample of {_count(residency.told, 'file')}"
    scope += "" if storage.files.is_complete else " of the part that there was time to list"
    found = f"{format_percent(ratio)} of {format_bytes(residency.looked_bytes)} looked at, in {scope}"
    evidence = Evidence(name="resident_ratio", value=ratio, threshold=CACHED_RATIO, source="own choice")
    if ratio >= CACHED_RATIO:
        return PAGE_CACHE.ok(found, evidence)
    why = "a first epoch reads the rest from storage, and is slower than a later one where memory holds the data"
    return PAGE_CACHE.note(found, why, "loadtune probe reads the data first; --cold measures without", evidence)


def fits_memory(readings: Readings) -> Line | None:
    """Whether the next epoch finds the data in memory."""
    storage = _looked_at(readings)
    if storage is None or storage.files is None or storage.total_bytes is None:
        return None
    if storage.mount is not None and storage.mount.file_system in MEMORY_FILE_SYSTEMS:
        return None
    room = readings.host.machine.limits.memory_available_bytes * MEMORY_FIT_RATIO
    least = "" if storage.files.is_complete else "at least "
    found = f"{least}{format_bytes(storage.total_bytes)} of data, {format_bytes(round(room))} of memory to keep them in"
    evidence = Evidence(
        name="data_bytes",
        value=storage.total_bytes,
        unit="bytes",
        threshold=room,
        source="half of the available memory, as a probe reckons",
    )
    if storage.total_bytes > room:
        why = "every epoch reads from storage, not only the first"
        return FIT.note(found, why, "smaller stored images, a faster disk, or more memory", evidence)
    if not storage.files.is_complete:
        return FIT.unknown("there was no time to see all files")
    return FIT.ok(found, evidence)


def _looked_at(readings: Readings) -> Storage | None:
    storage = readings.storage
    return None if storage is None or storage.problem is not None or storage.is_reference else storage


def _shown(storage: Storage) -> str:
    return one_line(storage.path)


def _describe_files(storage: Storage) -> str:
    files = storage.files
    if files is None:
        return "not listed"
    more = "" if files.is_complete else "more than "
    counted = f"{more}{_count(files.seen, 'file')}"
    if storage.total_bytes is None:
        return counted
    is_exact = storage.residency is not None and storage.residency.files == files.seen
    about = more or ("" if is_exact else "about ")
    return f"{counted}, {about}{format_bytes(storage.total_bytes)}"


def _describe_disk(disk: Disk) -> str:
    kind = "virtual disk" if disk.is_virtual else "spinning disk" if disk.is_rotational else "solid-state disk"
    if disk.is_rotational is None and not disk.is_virtual:
        kind = "disk"
    return f"{disk.name}, a {kind}" + (f" ({one_line(disk.model)})" if disk.model else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


STORAGE_CHECKS = (data, file_system, disk, page_cache, fits_memory)
"""In the order in which they are shown."""
