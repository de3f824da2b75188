"""Where does a world of `tuning` run? On the machine as it is, or behind a real limit that is made for it.

A quota of CPU time and a limit on memory are control groups below this process's own; a small /dev/shm is a tmpfs in a
mount namespace of its own. An affinity mask is no quota, so nothing stands in for what this machine forbids: `lacking`
says why, and the world is not run.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtune.monitor.cgroup import Group, find_groups

PERIOD_US = 100_000
"""The kernel's own default period. A shorter one throttles more finely than any container does."""
GROUP = "loadtune-tuning"
"""One name, so that what a killed run left is used again."""
JOIN = 'for group in $GROUPS_TO_JOIN; do echo $$ > "$group/cgroup.procs" || exit 1; done; exec "$@"'
"""Enters the groups first and becomes the command then, so that nothing of it runs outside."""
MOUNT = 'mount -t tmpfs -o "size=$SHM_BYTES" tmpfs /dev/shm || exit 1; exec "$@"'


class PlaceError(Exception):
    """The machine does not give this place; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What limits a world; None: nothing but the machine."""

    cores: float | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None


@contextmanager
def entered(place: Place) -> Iterator[list[str]]:
    """Make the place and yield what to put before a command so that it runs there; take it down afterwards.

    Raises:
        PlaceError: This machine does not let it be made.
    """
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_group(kind, files)) for kind, files in _limits(place)]
        command = ["env", f"GROUPS_TO_JOIN={' '.join(map(str, folders))}", f"SHM_BYTES={place.shm_bytes or 0}"]
        if folders:
            command += ["sh", "-c", JOIN, "sh"]
        if place.shm_bytes is not None:
            command += ["unshare", "--mount", "sh", "-c", MOUNT, "sh"]
        yield command


def lacking(place: Place) -> str | None:
    """Return why this machine does not give the place, None if it does."""
    if place == Place():
        return None
    try:
        with entered(place) as prefix:
            tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except (PlaceError, OSError) as error:
        return str(error)
    return None if tried.returncode == 0 else tried.stderr.strip() or f"exit code {tried.returncode}"


def _limits(place: Place) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield controller and files, under the names of both versions: `_group` writes those that are there."""
    if place.cores is not None:
        quota = int(place.cores * PERIOD_US)
        period = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}
        yield "cpu", {"cpu.max": f"{quota} {PERIOD_US}", **period}
    if place.memory_bytes is not None:
        yield "memory", {"memory.max": str(place.memory_bytes), "memory.limit_in_bytes": str(place.memory_bytes)}


@contextmanager
def _group(kind: str, files: dict[str, str]) -> Iterator[Path]:
    parents: tuple[Group, ...] = getattr(find_groups(), kind)
    if not parents:
        raise PlaceError(f"no {kind} control group is mounted")
    folder = parents[0].folder / GROUP
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PlaceError(f"no {kind} control group can be made: {error.strerror}") from error
    try:
        there = {name: text for name, text in files.items() if (folder / name).exists()}
        if not there:
            raise PlaceError(f"the {kind} controller is not handed on to groups below {parents[0].folder}")
        for name, text in there.items():
            (folder / name).write_text(text)
        yield folder
    except OSError as error:
        raise PlaceError(f"no {kind} limit can be set: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # a process that is still ending keeps it; it holds nothing back then
            folder.rmdir()
