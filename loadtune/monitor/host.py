"""What may be used of this machine, and what is used of it by everyone? Limits once, counters again and again.

One trial's share is `tree.py`'s question; what is wrong with the machine is `environment.py`'s.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtune.monitor.cgroup import find_groups, read_throttling
from loadtune.monitor.procfs import PAGE_BYTES, Mount, find_mount, parse_counters, parse_cpu_times, parse_mountinfo
from loadtune.monitor.tree import TreeReader, TreeReading
from loadtune.records.resources import HostLimits

__all__ = ["MachineReader", "MachineReading", "TreeReader", "TreeReading", "read_foreign_cores", "read_limits"]

SHARED_MEMORY = "dev/shm"
"""Where DataLoader workers hand batches over, below the root folder."""

BALLOON_DEVICE, REPORTING_BIT = 5, 5
"""VIRTIO_ID_BALLOON and VIRTIO_BALLOON_F_REPORTING, from linux/virtio_ids.h and linux/virtio_balloon.h."""
STAT_READ_BYTES = 1 << 17
"""One read takes every CPU line of /proc/stat, about 60 bytes each; 1000 CPUs fit."""


def read_limits(ranks_per_node: int = 1, *, root: Path = Path("/")) -> HostLimits:
    """Return what this process may use, after affinity, control groups of both versions and file-system limits.

    Args:
        ranks_per_node: Local ranks that share cores and memory evenly.
        root: Where /proc, /sys and /dev hang; another folder in tests.

    Raises:
        ValueError: ranks_per_node is below one.
    """
    if ranks_per_node < 1:
        raise ValueError(f"ranks_per_node must be at least 1, not {ranks_per_node}")
    groups = find_groups(root)
    affinity_cores = len(os.sched_getaffinity(0))
    quota = groups.read_quota()
    quota_cores = None if quota is None else quota.cores
    meminfo = _read_counters(root / "proc/meminfo")
    total = meminfo.get("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rooms = groups.read_memory_rooms()
    limit = min([total, *(room.limit_bytes for room in rooms)])
    available = min([meminfo.get("MemAvailable", total), *(room.available_bytes for room in rooms)])
    shm = _read_shm(root)
    return HostLimits(
        usable_cores=min(float(affinity_cores), quota_cores or float(affinity_cores)) / ranks_per_node,
        affinity_cores=affinity_cores,
        quota_cores=quota_cores,
        memory_limit_bytes=limit // ranks_per_node,
        memory_available_bytes=available // ranks_per_node,
        memory_oom_group=groups.has_oom_group(),
        shm_total_bytes=None if shm is None else shm.f_blocks * shm.f_frsize,
        shm_free_bytes=None if shm is None else shm.f_bavail * shm.f_frsize,
        open_files_limit=_read_open_files_limit(),
        ranks_per_node=ranks_per_node,
        returns_memory=_returns_memory(root),
    )


def _returns_memory(root: Path) -> bool:
    """Say whether a virtio balloon has negotiated free page reporting: `device` 5, and bit 5 of `features`."""
    for device in (root / "sys/bus/virtio/devices").glob("virtio*"):
        try:
            is_balloon = int((device / "device").read_text("ascii"), 16) == BALLOON_DEVICE
            if is_balloon and (device / "features").read_text("ascii")[REPORTING_BIT : REPORTING_BIT + 1] == "1":
                return True
        except (OSError, ValueError):
            continue
    return False


@dataclass(frozen=True, slots=True)
class MachineReading:
    """The machine at one moment. Seconds and counts only grow; None where it cannot be read."""

    busy_s: float | None = None
    """CPU seconds of every process on the CPUs of our affinity mask, interrupts left out."""
    steal_s: float | None = None
    """CPU seconds the hypervisor took from those CPUs."""
    shm_bytes: int | None = None
    """/dev/shm in use, whole machine."""
    periods: int | None = None
    """Periods of the tightest cgroup CPU quota; None: no quota."""
    throttled_periods: int | None = None
    """Those in which it held the group back."""


class MachineReader:
    """Reads the machine's counters. One thread.

    Args:
        root: Where /proc, /sys and /dev hang; another folder in tests.
        cpus: The CPUs that count; the affinity mask of this process unless given.
    """

    def __init__(self, root: Path = Path("/"), cpus: frozenset[int] | None = None) -> None:
        self.reasons: dict[str, str] = {}
        """Why a field of MachineReading is None, by its name."""
        self._root = root
        self._cpus = frozenset(os.sched_getaffinity(0)) if cpus is None else cpus
        self._groups = find_groups(root)
        quota = self._groups.read_quota()
        self._quota_group = None if quota is None else quota.group
        if quota is None:
            self.reasons["periods"] = "no cgroup CPU quota is set"
        elif read_throttling(quota.group) is None:
            self.reasons["periods"] = "the cgroup does not count throttled periods"
        self._has_shm = _read_shm(root) is not None
        if not self._has_shm:
            self.reasons["shm_bytes"] = "/dev/shm is not a mount"
        self._stat_file: int | None = None
        try:
            self._stat_file = os.open(root / "proc/stat", os.O_RDONLY)
        except OSError as error:
            self.reasons["busy_s"] = self.reasons["steal_s"] = f"/proc/stat: {error.strerror}"

    def read(self) -> MachineReading:
        """Return the counters now.

        Raises:
            OSError: A file that could be opened can no longer be read.
            ValueError: It has another form than expected.
        """
        times = None
        if self._stat_file is not None:
            text = os.pread(self._stat_file, STAT_READ_BYTES, 0).decode("ascii", "replace")
            times = parse_cpu_times(text, self._cpus)
        throttling = None if self._quota_group is None else read_throttling(self._quota_group)
        shm = os.statvfs(self._root / SHARED_MEMORY) if self._has_shm else None
        return MachineReading(
            busy_s=None if times is None else times.busy_s,
            steal_s=None if times is None else times.steal_s,
            shm_bytes=None if shm is None else (shm.f_blocks - shm.f_bfree) * shm.f_frsize,
            periods=None if throttling is None else throttling.periods,
            throttled_periods=None if throttling is None else throttling.throttled_periods,
        )

    def read_oom_kills(self) -> tuple[int | None, int | None]:
        """Return the kernel's out-of-memory kills so far: on the whole machine, and in our own cgroup.

        A trial that was put into a cgroup of its own counts only in the first; in a container whose /proc/vmstat is
        not its own, only the second is sure to be ours. None where there is no such counter.
        """
        return read_machine_oom_kills(self._root), self._groups.read_oom_kills()

    def read_swapped_in_bytes(self) -> int | None:
        """Return what the whole machine has read back from swap so far; None where the kernel does not count it."""
        pages = _read_counters(self._root / "proc/vmstat").get("pswpin")
        return None if pages is None else pages * PAGE_BYTES

    def close(self) -> None:
        """Close the open file."""
        if self._stat_file is not None:
            with contextlib.suppress(OSError):
                os.close(self._stat_file)
            self._stat_file = None


def read_machine_oom_kills(root: Path = Path("/")) -> int | None:
    """Return `oom_kill` of /proc/vmstat; None on kernels before 4.13."""
    return _read_counters(root / "proc/vmstat").get("oom_kill")


def read_foreign_cores(
    machine: MachineReader,
    tree: TreeReader,
    look_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Return how many cores others kept busy while this call slept; None where /proc/stat cannot be read.

    Args:
        machine: The machine's counters.
        tree: Whose CPU time does not count.
        look_s: Seconds to look. Ticks are 10 ms, so 0.3 s can tell 0.1 cores.
        clock: Monotonic seconds.
        sleep: Waits that many seconds.
    """
    try:
        before, own_before, started_s = machine.read().busy_s, tree.read(), clock()
        sleep(look_s)
        after, own_after, ended_s = machine.read().busy_s, tree.read(), clock()
    except (OSError, ValueError):
        return None
    if before is None or after is None or ended_s <= started_s:
        return None
    own_s = own_after.main_cpu_s + own_after.worker_cpu_s - own_before.main_cpu_s - own_before.worker_cpu_s
    return max(0.0, after - before - own_s) / (ended_s - started_s)


def find_data_mount(path: str, *, root: Path = Path("/")) -> Mount | None:
    """Return the mount that holds a path; None where /proc does not tell. Names that are not UTF-8 are names too."""
    try:
        mounts = parse_mountinfo((root / "proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    except OSError:
        return None
    return find_mount(os.path.realpath(path), mounts)


def find_file_system(path: str, *, root: Path = Path("/")) -> str | None:
    """Return the type of the file system that holds a path; None where /proc does not tell."""
    mount = find_data_mount(path, root=root)
    return None if mount is None else mount.file_system


def _read_shm(root: Path) -> os.statvfs_result | None:
    """Return the figures of /dev/shm; None where it is no mount of its own but a folder of some other file system."""
    try:
        mounts = parse_mountinfo((root / "proc/self/mountinfo").read_text("utf-8"))
        if not any(mount.mount_point == f"/{SHARED_MEMORY}" for mount in mounts):
            return None
        return os.statvfs(root / SHARED_MEMORY)
    except (OSError, UnicodeDecodeError):
        return None


def _read_counters(path: Path) -> dict[str, int]:
    try:
        return parse_counters(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def _read_open_files_limit() -> int | None:
    """Return the soft RLIMIT_NOFILE; None: no limit. Imported here, for Windows must get as far as being refused."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
