"""What may a killed trial leave behind, and how is it removed? Processes of its group, and its shared memory."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
TRACKER_GRACE_S = 1.0
"""How long multiprocessing's resource tracker may take to unlink a dead group's semaphores. It ends by itself when
its pipe closes; killed at once, it would leave /dev/shm/sem.mp-* behind."""

PID_MAX = 2**22
"""Of Linux on 64 bits (proc(5), pid_max)."""

_TORCH_FILE = re.compile(r"torch_(\d+)_.+")
"""A tensor in shared memory: `torch_48151_2342_0`, its first number the process that made it."""


def end_group(group: int, proc: Path = Path("/proc")) -> None:
    """Kill a process group, its resource trackers last; returns at once where the group is gone."""
    members = _members(group, proc)
    trackers = {pid for pid in members if _is_tracker(pid, proc)}
    if trackers:
        deadline_s = time.monotonic() + TRACKER_GRACE_S
        while time.monotonic() < deadline_s and (members := _members(group, proc)):
            for pid in members - trackers:
                _kill(pid)
            time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def wait_for_end(group: int, limit_s: float, proc: Path = Path("/proc")) -> bool:
    """Wait until no process of a group runs any more, and say whether that came true within the limit."""
    deadline_s = time.monotonic() + limit_s
    while _members(group, proc):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.005)
    return True


def sweep_shared_memory(group: int, since_s: float, folder: Path = SHARED_MEMORY) -> int:
    """Remove our tensors' files whose maker is dead and that are younger than `since_s`; return their bytes.

    Args:
        group: The trial's process group: makers' numbers are no lower than that of its first process.
        since_s: time.time() when the trial began; older files are somebody else's leftovers.
        folder: Where shared memory lives.
    """
    freed = 0
    for path, size in _orphans(group, since_s, folder):
        with contextlib.suppress(OSError):
            path.unlink()
            freed += size
    return freed


def find_leftovers(groups: Iterable[int], since_s: float, folder: Path = SHARED_MEMORY) -> list[str]:
    """Return what is left of ended trials, in words: living processes, and shared memory whose maker is dead.

    Args:
        groups: Process groups that should be gone, the first of them first.
        since_s: time.time() from which on shared memory is looked at.
        folder: Where shared memory lives.
    """
    known = list(groups)
    found = [f"process {pid}" for group in known for pid in sorted(_members(group, Path("/proc")))]
    orphans = _orphans(known[0], since_s, folder) if known else []
    return found + [f"shared memory {path.name}" for path, _ in orphans]


def _orphans(group: int, since_s: float, folder: Path) -> list[tuple[Path, int]]:
    """Return our tensors' files whose maker is dead, each with its bytes.

    /dev/shm may be shared with containers whose processes are not seen here (--ipc=host) and look dead: their numbers
    are rarely among the few that were given since the group's.
    """
    makers = _pids_since(group)
    found: list[tuple[Path, int]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TORCH_FILE.fullmatch(entry.name)
            if match is None or int(match[1]) not in makers or _group_of(Path("/proc") / match[1]) is not None:
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.getuid() and status.st_mtime >= since_s:
                    found.append((Path(entry.path), status.st_size))
    return found


def _pids_since(first: int) -> range:
    """Return the process numbers that were given from this one on; every number where they began anew since."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        newest = int(Path("/proc/loadavg").read_text("ascii").split()[-1])  # proc(5): the last one given
        if newest >= first:
            return range(first, newest + 1)
    return range(PID_MAX + 1)


def _members(group: int, proc: Path) -> set[int]:
    """Return the processes of a group that still run."""
    pids = [entry.name for entry in os.scandir(proc) if entry.name.isdigit()]
    return {int(pid) for pid in pids if _group_of(proc / pid) == group}


def is_stopped(pid: int, proc: Path = Path("/proc")) -> bool:
    """Say whether a process stands still, or is gone: state T of /proc/PID/stat."""
    try:
        text = (proc / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in {"T", "Z", "X"}


def _group_of(process: Path) -> int | None:
    """Return a process's group; None where it is gone or waits to be reaped."""
    try:
        text = (process / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # `48151 (a (strange) name) S 1 48151 ...`: state, parent and group follow the last parenthesis.
    state, _, group = text.rpartition(")")[2].split()[:3]
    return None if state in {"Z", "X"} else int(group)


def _is_tracker(pid: int, proc: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in (proc / str(pid) / "cmdline").read_bytes()
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
