"""What do the kernel's text files say? One pure parser a file, a sample of its input with each; none opens a file."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of one tick, in which /proc counts CPU time: 10 ms nearly everywhere."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""Bytes of one page, in which /proc counts resident memory."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process at one moment."""

    parent_pid: int
    cpu_s: float
    """CPU seconds of all its threads since it began, user and system; reaped children are not counted."""
    reaped_cpu_s: float
    """CPU seconds of the children that it has waited for, and of theirs. A child that nobody waits for is in none."""
    memory_bytes: int
    """Resident pages, those shared with other processes included."""


def parse_process_stat(text: str) -> ProcessStat:
    """Read /proc/<pid>/stat. The name may hold anything, so fields are counted from the last parenthesis.

    Raises:
        ValueError: The text is no such file.
        IndexError: It is cut off.

    >>> line = "48151 (a (b) c) S 7 1 1 0 -1 4194560 9 0 0 0 150 50 8 9 20 0 1 0 5 1000 25 1844"
    >>> parse_process_stat(line).parent_pid, round(parse_process_stat(line).cpu_s / TICK_S)
    (7, 200)
    >>> round(parse_process_stat(line).reaped_cpu_s / TICK_S)
    17
    >>> parse_process_stat(line).memory_bytes == 25 * PAGE_BYTES
    True
    """
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        parent_pid=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) * TICK_S,
        reaped_cpu_s=(int(fields[13]) + int(fields[14])) * TICK_S,
        memory_bytes=int(fields[21]) * PAGE_BYTES,
    )


@dataclass(frozen=True, slots=True)
class ProcessIo:
    """What one process has read since it began, reaped children included."""

    read_chars: int
    """Bytes that read() and its kin returned, from page cache, pipe or storage alike."""
    read_bytes: int
    """Bytes that had to be fetched from storage for it."""


def parse_process_io(text: str) -> ProcessIo:
    r"""Read /proc/<pid>/io.

    Raises:
        KeyError: A counter is missing: the kernel was built without task I/O accounting.

    >>> parse_process_io("rchar: 6976\nwchar: 0\nsyscr: 10\nsyscw: 0\nread_bytes: 4096\nwrite_bytes: 0\n")
    ProcessIo(read_chars=6976, read_bytes=4096)
    """
    counters = parse_counters(text)
    return ProcessIo(read_chars=counters["rchar"], read_bytes=counters["read_bytes"])


def parse_counters(text: str) -> dict[str, int]:
    r"""Read a file of `name value` or `name: value kB` lines; kilobytes come out as bytes, other lines are skipped.

    This is the form of /proc/vmstat, /proc/meminfo, smaps_rollup, and of cgroups' memory.stat, memory.events,
    memory.oom_control and cpu.stat.

    >>> parse_counters("oom_kill 3\nMemTotal:       24684096 kB\nPss:  12 kB\n5e00-7f00 ---p 00 00:00 0 [rollup]\n")
    {'oom_kill': 3, 'MemTotal': 25276514304, 'Pss': 12288}
    """
    counters = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        value = rest.split()
        if value and value[0].isdigit() and value[1:] in ([], ["kB"]):
            counters[name.removesuffix(":")] = int(value[0]) * (1024 if len(value) > 1 else 1)
    return counters


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds since boot, summed over some CPUs."""

    busy_s: float
    """User, nice and system. Interrupts are left out: they belong to no process, and a trial's own reads cause them."""
    steal_s: float
    """Taken by the hypervisor while something here was ready to run."""


def parse_cpu_times(text: str, cpus: Collection[int]) -> CpuTimes:
    r"""Read the lines of /proc/stat that belong to the given CPUs: user nice system idle iowait irq softirq steal.

    >>> text = "cpu  93 1 12 45 124 0 8 9 0 0\ncpu0 18 1 9 42 122 0 6 2 0 0\ncpu1 75 0 3 3 2 0 2 7 0 0\n"
    >>> times = parse_cpu_times(text, {0})
    >>> round(times.busy_s / TICK_S), round(times.steal_s / TICK_S)
    (28, 2)
    """
    busy = steal = 0
    for line in text.splitlines():
        if not line.startswith("cpu"):
            break  # the lines of the CPUs come first; the interrupt line behind them is long
        name, *fields = line.split()
        if name != "cpu" and int(name[3:]) in cpus:
            busy += sum(map(int, fields[:3]))
            steal += int(fields[7]) if len(fields) > 7 else 0
    return CpuTimes(busy_s=busy * TICK_S, steal_s=steal * TICK_S)


def parse_cpu_model(text: str) -> str | None:
    r"""Read the CPU's name from /proc/cpuinfo; None where the kernel gives none, as on many ARM machines.

    >>> parse_cpu_model("processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\n")
    'AMD EPYC 7763 64-Core Processor'
    """
    found = re.search(r"^(?:model name|Model|Hardware|cpu model)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/<pid>/mountinfo."""

    root: str
    """Which folder of the file system is mounted; for a cgroup, the group that is seen as the top."""
    mount_point: str
    file_system: str
    """Type by the kernel's name: ext4, nfs4, overlay, fuse.sshfs ..."""
    options: frozenset[str]
    """Options of the file system itself; for a cgroup v1, its controllers."""
    device: str
    """Number of its block device, `8:1`; of a file system without one, the kernel makes one up with major 0."""
    source: str
    """What was mounted: `/dev/sda1`, `server:/export`, or a word."""


def parse_mountinfo(text: str) -> list[Mount]:
    r"""Read /proc/<pid>/mountinfo: blanks in a path are octal (`\040`), and optional fields end with a dash.

    >>> mounts = parse_mountinfo("31 23 0:28 / /mnt/my\\040data rw,noatime shared:5 - nfs4 server:/x rw,vers=4.2\n")
    >>> mounts[0].mount_point, mounts[0].file_system, mounts[0].device, mounts[0].source
    ('/mnt/my data', 'nfs4', '0:28', 'server:/x')
    """
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6:
            options = frozenset(tail[-1].split(","))
            source = _unescape(tail[1]) if len(tail) > 1 else ""
            mounts.append(Mount(_unescape(fields[3]), _unescape(fields[4]), tail[0], options, fields[2], source))
    return mounts


def find_mount(path: str, mounts: list[Mount]) -> Mount | None:
    r"""Return the mount that holds an absolute path: the longest mount point above it, the latest where two share it.

    >>> mounts = parse_mountinfo("1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /data rw - xfs b rw\n")
    >>> find_mount("/data/voc", mounts).file_system, find_mount("/database", mounts).file_system
    ('xfs', 'ext4')
    """
    above = [
        mount for mount in mounts if mount.mount_point == path or path.startswith(mount.mount_point.rstrip("/") + "/")
    ]
    return max(enumerate(above), key=lambda item: (len(item[1].mount_point), item[0]))[1] if above else None


def parse_process_cgroups(text: str) -> dict[str, str]:
    r"""Read /proc/<pid>/cgroup into controller -> path; cgroup v2, which has no list of controllers, is "".

    >>> parse_process_cgroups("4:memory:/docker/ab\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/user.slice\n")
    {'memory': '/docker/ab', 'cpu': '/', 'cpuacct': '/', 'name=systemd': '/', '': '/user.slice'}
    """
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)
