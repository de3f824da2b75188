"""What does a trial's process tree use? CPU, memory and bytes read, cheaply enough for ten readings a second.

Each process keeps one open file for /proc/<pid>/stat and one for /proc/<pid>/io: reading an open one costs half of
opening it, and it can never show another process that was given the same number. It signals no process.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtune.monitor.procfs import ProcessIo, parse_counters, parse_process_io, parse_process_stat

SCAN_SHARE = 0.005
"""Share of one core that looking for new processes may take: a scan of 0.1 ms is done every 20 ms, one of 2 ms every
0.4 s. Larger values would cost the trial CPU on machines with many processes."""

SCAN_PAUSE_MAX_S = 2.0
"""Descendants that the root's main thread has not started itself are seen at the latest after this long, however slow
a scan is; its own children are seen at once."""

READ_SIZE_BYTES = 2048
"""One read takes a whole stat or io file; both stay under 500 bytes."""


@dataclass(frozen=True, slots=True)
class TreeReading:
    """A process tree at one moment. Times and bytes read only grow: what ended processes used stays counted."""

    main_cpu_s: float
    """CPU seconds of the root process."""
    worker_cpu_s: float
    """CPU seconds of all its descendants."""
    memory_bytes: int
    """Resident memory of the living, pages shared between processes counted once for each."""
    process_count: int
    """Living processes, the root included."""
    read_bytes: int | None
    """Bytes taken from storage; None: /proc/<pid>/io cannot be read."""
    read_chars: int | None
    """Bytes returned by reads, page cache included; None as above."""


@dataclass(slots=True)
class _Member:
    stat_file: int
    io_file: int | None
    parent_pid: int | None
    cpu_s: float = 0.0
    reaped_cpu_s: float = 0.0
    gone_cpu_s: float = 0.0
    memory_bytes: int = 0
    io: ProcessIo = ProcessIo(0, 0)

    @property
    def children_cpu_s(self) -> float:
        """CPU seconds of ended children: by the kernel, or as last read where nobody waited for them.

        Workers that live for a part of a second use most of theirs between two readings, or are never seen.
        """
        return max(self.reaped_cpu_s, self.gone_cpu_s)


class TreeReader:
    """Follows one process and its descendants.

    Readings come from one thread; `read_pss_bytes` may be called from another.

    Args:
        root_pid: The trial's main process. Where it has ended already, every reading is zero.
        proc: Where /proc is; another folder in tests.
        clock: Monotonic seconds.
    """

    def __init__(
        self, root_pid: int, *, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root_pid = root_pid
        self.io_reason: str | None = None
        """Why read_bytes and read_chars are None; None: they are not."""
        self.pss_reason: str | None = None
        """Why the last read_pss_bytes gave None."""
        self.pss_processes = 0
        """Processes that the last read_pss_bytes looked at: two figures compare only where these are alike."""
        self.pss_file_bytes: int | None = None
        """Of the last figure, pages of files (libraries, memory maps), which the kernel may drop; None: not told."""
        self._proc, self._clock = proc, clock
        self._members: dict[int, _Member] = {}
        self._seen: set[int] = set()
        self._next_scan_s = float("-inf")
        self._ended_cpu_s = {True: 0.0, False: 0.0}  # by "is the root"
        self._most_worker_cpu_s = 0.0
        self._ended_io = self._most_io = ProcessIo(0, 0)
        self._adopt(root_pid, None)

    @property
    def pids(self) -> frozenset[int]:
        """Processes of the tree that lived at the last reading."""
        return frozenset(self._members)

    def read(self) -> TreeReading:
        """Return what the tree uses now. Processes that end in between keep their last known figures."""
        if self.root_pid in self._members:
            for pid in self._children():  # workers that begin between two scans: what they use is seen from the first
                if pid not in self._members:
                    self._adopt(pid, self.root_pid)
        if self._clock() >= self._next_scan_s:
            self._scan()
        for pid, member in list(self._members.items()):
            if not self._update(member):
                self._retire(pid)
        living = self._members.values()
        root = self._members.get(self.root_pid)
        main_s = root.cpu_s if root else 0.0
        workers_s = sum(member.cpu_s + member.children_cpu_s for member in living) - main_s
        # As with what was read: between a worker's end and the reading of its parent the sum dips.
        self._most_worker_cpu_s = max(self._most_worker_cpu_s, self._ended_cpu_s[False] + workers_s)
        io = self._sum_io()
        return TreeReading(
            main_cpu_s=self._ended_cpu_s[True] + main_s,
            worker_cpu_s=self._most_worker_cpu_s,
            memory_bytes=sum(member.memory_bytes for member in living),
            process_count=len(living),
            read_bytes=None if io is None else io.read_bytes,
            read_chars=None if io is None else io.read_chars,
        )

    def read_pss_bytes(self) -> int | None:
        """Return the tree's proportional set size; None, with `pss_reason`, where it cannot be read.

        Costs about 15 ms of CPU a process, and holds its memory map meanwhile: call it outside of what is measured.
        """
        total, self.pss_reason = 0, None
        files: list[int | None] = []
        pids = {*self._members, *self._children()}
        self.pss_processes = len(pids)
        for pid in pids:
            try:
                text = (self._proc / str(pid) / "smaps_rollup").read_text("utf-8")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            except OSError as error:
                self.pss_reason = f"/proc/<pid>/smaps_rollup: {error.strerror}"
                return None
            counters = parse_counters(text)
            total += counters.get("Pss", 0)
            files.append(counters.get("Pss_File"))
        told = [each for each in files if each is not None]
        self.pss_file_bytes = sum(told) if len(told) == len(files) else None
        if total == 0:
            self.pss_reason = "no process of the tree could be read"
        return total or None

    def _children(self) -> list[int]:
        """Return what the root's main thread has started, those too that no scan has seen yet: `48152 48153 `."""
        root = str(self.root_pid)
        try:
            return [int(pid) for pid in (self._proc / root / "task" / root / "children").read_text("ascii").split()]
        except (OSError, ValueError):  # a kernel without CONFIG_PROC_CHILDREN, or the root has ended
            return []

    def close(self) -> None:
        """Close the open files; readings keep their last figures."""
        for pid in list(self._members):
            self._retire(pid)
        self._next_scan_s = float("inf")

    def _scan(self) -> None:
        """Look for new descendants. Only processes not seen before are opened: a parent never changes to a younger."""
        started_s = time.perf_counter()
        try:
            present = {int(name) for name in os.listdir(self._proc) if name.isdigit()}  # noqa: PTH208 - four times as fast
        except OSError:
            present = self._seen
        strangers = {pid: self._read_parent(pid) for pid in present - self._seen - self._members.keys()}
        while children := [pid for pid, parent in strangers.items() if parent in self._members]:
            for pid in children:
                self._adopt(pid, strangers.pop(pid))
        self._seen = present
        pause_s = min(SCAN_PAUSE_MAX_S, (time.perf_counter() - started_s) / SCAN_SHARE)
        self._next_scan_s = self._clock() + pause_s

    def _read_parent(self, pid: int) -> int | None:
        try:
            return parse_process_stat((self._proc / str(pid) / "stat").read_text("utf-8", "replace")).parent_pid
        except (OSError, ValueError, IndexError):
            return None

    def _sum_io(self) -> ProcessIo | None:
        """Sum what was read. Between a worker's end and the reading of its parent the sum dips: hold it there."""
        if self.io_reason is not None:
            return None
        all_io = [self._ended_io, *(member.io for member in self._members.values())]
        self._most_io = ProcessIo(
            read_chars=max(self._most_io.read_chars, sum(io.read_chars for io in all_io)),
            read_bytes=max(self._most_io.read_bytes, sum(io.read_bytes for io in all_io)),
        )
        return self._most_io

    def _adopt(self, pid: int, parent_pid: int | None) -> None:
        folder = self._proc / str(pid)
        try:
            stat_file = os.open(folder / "stat", os.O_RDONLY)
        except OSError:
            return
        io_file = None
        try:
            io_file = os.open(folder / "io", os.O_RDONLY)
        except OSError as error:
            if folder.is_dir():  # else it has just ended
                self.io_reason = f"/proc/<pid>/io: {error.strerror}"
        self._members[pid] = _Member(stat_file, io_file, parent_pid)

    def _update(self, member: _Member) -> bool:
        """Read one process anew; False: it has ended. A zombie still reads, with its final CPU time and no memory."""
        try:
            stat = parse_process_stat(os.pread(member.stat_file, READ_SIZE_BYTES, 0).decode("utf-8", "replace"))
        except (OSError, ValueError, IndexError):
            return False
        member.cpu_s = max(member.cpu_s, stat.cpu_s)
        member.reaped_cpu_s = max(member.reaped_cpu_s, stat.reaped_cpu_s)
        member.memory_bytes = stat.memory_bytes
        if self.io_reason is None and member.io_file is not None:
            try:
                member.io = parse_process_io(os.pread(member.io_file, READ_SIZE_BYTES, 0).decode("utf-8"))
            except PermissionError as error:
                # A process that ends loses its memory map, and with it what tells that this user may look.
                if member.memory_bytes:
                    self.io_reason = f"/proc/<pid>/io: {error.strerror}"
            except (OSError, ValueError, KeyError):
                return True  # it ended between the two reads; its last figures stay
        return True

    def _retire(self, pid: int) -> None:
        member = self._members.pop(pid)
        # The kernel adds what a reaped child used and read to its parent's counters: to keep it would count it twice.
        parent = self._members.get(member.parent_pid or 0)
        if parent is not None:
            parent.gone_cpu_s += member.cpu_s + member.children_cpu_s
        else:
            self._ended_cpu_s[pid == self.root_pid] += member.cpu_s
            self._ended_cpu_s[False] += member.children_cpu_s
            self._ended_io = ProcessIo(
                read_chars=self._ended_io.read_chars + member.io.read_chars,
                read_bytes=self._ended_io.read_bytes + member.io.read_bytes,
            )
        for file in (member.stat_file, member.io_file):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)
