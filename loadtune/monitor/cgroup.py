"""What do control groups, version 1 and 2, allow this process, and how hard do they hold it back?

It reads the group's files and those of every group above it: a limit on any of them binds. It changes none.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loadtune.monitor.procfs import Mount, parse_counters, parse_mountinfo, parse_process_cgroups

UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as the largest multiple of a page in 63 bits. No machine has this much memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """The folder of one control group."""

    folder: Path
    is_v2: bool

    def read_text(self, name: str) -> str | None:
        """Return a file of the group; None where the group has no such file, as the topmost often has not."""
        try:
            return (self.folder / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def read_counters(self, name: str) -> dict[str, int]:
        """Return a file of `name value` lines; empty where there is none."""
        return parse_counters(self.read_text(name) or "")

    def read_number(self, name: str) -> int | None:
        """Return a file of one number; None for "max", -1, or no such file."""
        text = (self.read_text(name) or "").strip()
        return int(text) if text.isdigit() else None


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on CPU time, and the group that sets it."""

    cores: float
    group: Group


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """A limit on memory."""

    limit_bytes: int
    available_bytes: int
    """Below the limit, with what the kernel can drop (page cache, slab) counted as free."""


@dataclass(frozen=True, slots=True)
class Throttling:
    """Counters of a group with a quota, since it was made."""

    periods: int
    """Enforcement periods in which the group ran."""
    throttled_periods: int
    """Those in which it used its quota up and had to wait."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups that bind one process, its own first, then those above as far as they can be seen."""

    cpu: tuple[Group, ...] = ()
    memory: tuple[Group, ...] = ()

    def read_quota(self) -> Quota | None:
        """Return the tightest CPU quota; None: there is none."""
        quotas = [Quota(cores, group) for group in self.cpu if (cores := _read_quota_cores(group)) is not None]
        return min(quotas, key=lambda quota: quota.cores, default=None)

    def read_memory_rooms(self) -> list[MemoryRoom]:
        """Return every memory limit on the way up; empty: there is none."""
        return [room for group in self.memory if (room := _read_memory_room(group)) is not None]

    def has_oom_group(self) -> bool:
        """Say whether one out-of-memory kill would take a whole group that holds this process."""
        return any((group.read_text("memory.oom.group") or "").strip() == "1" for group in self.memory)

    def read_oom_kills(self) -> int | None:
        """Return how many processes of the own group the kernel has killed for memory; None: not told."""
        if not self.memory:
            return None
        group = self.memory[0]
        return group.read_counters("memory.events" if group.is_v2 else "memory.oom_control").get("oom_kill")


def find_groups(root: Path = Path("/"), process: str = "self") -> Groups:
    """Return the groups of a process; empty where /proc tells nothing about them.

    Args:
        root: Where /proc and /sys hang; another folder in tests.
        process: A process id, or "self".
    """
    try:
        paths = parse_process_cgroups((root / "proc" / process / "cgroup").read_text("utf-8"))
        mounts = parse_mountinfo((root / "proc" / process / "mountinfo").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return Groups()
    unified = list(_walk_up(root, paths, mounts, ""))
    # Under systemd's hybrid layout both versions are mounted, and version 2 holds no controller: its files are absent.
    return Groups(
        cpu=(*_walk_up(root, paths, mounts, "cpu"), *unified),
        memory=(*_walk_up(root, paths, mounts, "memory"), *unified),
    )


def read_throttling(group: Group) -> Throttling | None:
    """Return the quota counters of a group, from cpu.stat: `nr_periods 12`, `nr_throttled 3`; None: not told."""
    counters = group.read_counters("cpu.stat")
    if not {"nr_periods", "nr_throttled"} <= counters.keys():
        return None
    return Throttling(counters["nr_periods"], counters["nr_throttled"])


def _walk_up(root: Path, paths: dict[str, str], mounts: list[Mount], controller: str) -> Iterator[Group]:
    """Yield the group of a controller ("" is version 2) and those above it, up to the mount."""
    if controller not in paths:
        return
    for mount in mounts:
        kind_fits = mount.file_system == ("cgroup" if controller else "cgroup2")
        if not kind_fits or (controller and controller not in mount.options):
            continue
        top = root / mount.mount_point.lstrip("/")
        inner = PurePosixPath("/")
        # In a container the path may be the host's, while the mount shows only the part below its own root.
        with contextlib.suppress(ValueError):
            inner = PurePosixPath("/") / PurePosixPath(paths[controller]).relative_to(mount.root)
        if ".." in inner.parts or not (top / inner.relative_to("/")).is_dir():
            inner = PurePosixPath("/")
        for part in (inner, *inner.parents):
            yield Group(top / part.relative_to("/"), is_v2=not controller)
        return


def _read_quota_cores(group: Group) -> float | None:
    """Read cpu.max (`200000 100000`, `max 100000`), or version 1's pair of files (-1: no quota)."""
    if group.is_v2:
        words = (group.read_text("cpu.max") or "").split()
    else:
        words = [(group.read_text(name) or "").strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(words) != 2:
        return None
    quota, period = words
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _read_memory_room(group: Group) -> MemoryRoom | None:
    counters = group.read_counters("memory.stat")
    if group.is_v2:
        # Above memory.high the kernel slows the group down until it is below again: no room to measure in.
        limits = [group.read_number("memory.max"), group.read_number("memory.high")]
        used = group.read_number("memory.current")
        droppable: tuple[str, ...] = ("inactive_file", "active_file", "slab_reclaimable")
    else:
        limits = [group.read_number("memory.limit_in_bytes"), counters.get("hierarchical_memory_limit")]
        used = group.read_number("memory.usage_in_bytes")
        droppable = ("total_inactive_file", "total_active_file")
    limit = min((each for each in limits if each is not None and each < UNLIMITED_BYTES), default=None)
    if limit is None:
        return None
    pinned = max(0, (used or 0) - sum(counters.get(name, 0) for name in droppable))
    return MemoryRoom(limit, max(0, limit - pinned))
